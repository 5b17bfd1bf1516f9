"""The device book and `medge devices`."""

from __future__ import annotations

import json
import shlex
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medge import cli, conversation, device_book, link_errors
from medge.device_book import Device
from medge.errors import IntegrityError, MissingError, RecipeError
from medge.job import supervisor


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "config/devices.json"))
    return tmp_path / "config/devices.json"


def test_what_was_added_is_found_by_name_and_only_its_owner_may_read_the_book(book: Path) -> None:
    cart = Device("cart7", "linux", "10.0.0.7", 2222, "nurse", host_key="ssh-ed25519 AAAA")
    device_book.add(cart)
    assert device_book.find("cart7") == cart
    assert stat.S_IMODE(book.stat().st_mode) == 0o600
    assert list(book.parent.iterdir()) == [book]


def test_the_book_is_under_the_users_config_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDGE_DEVICES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert device_book.path() == tmp_path / "medge/devices.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/nurse")
    assert device_book.path() == Path("/home/nurse/.config/medge/devices.json")


def test_local_always_exists() -> None:
    assert device_book.find("local").kind == "local"


def test_a_kind_means_its_only_device() -> None:
    device_book.add(Device("cart7", "linux", "a"))
    assert device_book.find("linux").name == "cart7"


def test_a_kind_with_several_devices_asks_which() -> None:
    for name in ("cart8", "cart7"):
        device_book.add(Device(name, "linux", "a"))
    with pytest.raises(RecipeError, match="2 devices of kind linux: cart7, cart8") as caught:
        device_book.find("linux")
    assert caught.value.fix == "Name one: --device cart7"


def test_a_kind_without_a_device_says_how_to_add_one() -> None:
    with pytest.raises(MissingError) as caught:
        device_book.find("linux")
    assert caught.value.exit_code == 3
    assert "medge devices add NAME ssh://user@host --kind linux" in caught.value.fix


def test_an_unknown_name_is_missing_and_the_nearest_is_named() -> None:
    device_book.add(Device("cart7", "linux", "a"))
    with pytest.raises(MissingError) as caught:
        device_book.find("cart8")
    assert "Did you mean 'cart7'?" in caught.value.fix


@pytest.mark.parametrize("name", ["linux", "local", "all", "Cart 7", "", "-x", "a/b"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        device_book.add(Device(name, "linux", "a"))


def test_a_name_is_given_once_and_a_kind_must_exist() -> None:
    device_book.add(Device("cart7", "linux", "a"))
    with pytest.raises(RecipeError, match="already"):
        device_book.add(Device("cart7", "linux", "b"))
    with pytest.raises(RecipeError, match="No kind of device 'linus'"):
        device_book.add(Device("cart8", "linus", "b"))
    with pytest.raises(RecipeError, match="No kind of device 'local'"):
        device_book.add(Device("cart8", "local", "b"))


def test_a_removed_device_is_gone() -> None:
    device_book.add(Device("cart7", "linux", "a"))
    device_book.remove("cart7")
    assert device_book.devices() == []
    with pytest.raises(MissingError):
        device_book.remove("cart7")


def test_facts_are_remembered_of_devices_in_the_book_only() -> None:
    cart = Device("cart7", "linux", "a")
    device_book.add(cart)
    device_book.remember(cart, {"cpu": "x"})
    device_book.remember(device_book.LOCAL, {"cpu": "y"})
    assert [device.facts for device in device_book.devices()] == [{"cpu": "x"}]


@pytest.mark.parametrize("text", ["nonsense", "{}", '{"devices": [{"name": 3, "speed": 1}]}'])
def test_a_book_that_is_none_is_refused(book: Path, text: str) -> None:
    book.parent.mkdir()
    book.write_text(text)
    with pytest.raises(IntegrityError) as caught:
        device_book.devices()
    assert str(book) in caught.value.message
    assert f"mv {book} {book}.broken; medge devices add NAME" in caught.value.fix


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("ssh://nurse@10.0.0.7:2222", ("10.0.0.7", 2222, "nurse")),
        ("nurse@cart7.ward", ("cart7.ward", None, "nurse")),
        ("Cart7", ("Cart7", None, None)),
        ("ssh://[fe80::1]:22", ("fe80::1", 22, None)),
    ],
)
def test_addresses(url: str, parts: tuple[str, int | None, str | None]) -> None:
    assert device_book.parse_url(url) == parts


@pytest.mark.parametrize(
    "url", ["http://a", "ssh://", "ssh://a:b:c", "ssh://u:secret@a", "ssh://a/folder", "ssh://a:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RecipeError, match="no ssh address"):
        device_book.parse_url(url)


def test_a_machine_without_a_network_is_added_and_listed(book: Path) -> None:
    run = CliRunner().invoke
    done = run(cli.app, ["devices", "add", "cart9", "--offline", "--kind", "linux", "--json"])
    assert json.loads(done.stdout)["device"]["name"] == "cart9"
    listed = json.loads(run(cli.app, ["devices", "list", "--json"]).stdout)
    assert [device["name"] for device in listed["devices"]] == ["local", "cart9"]
    assert json.loads(run(cli.app, ["devices", "remove", "cart9", "--json"]).stdout)["device"]["name"] == "cart9"
    assert device_book.devices() == []


def test_the_list_is_a_table_on_stdout_with_the_hardware_that_was_last_seen() -> None:
    device_book.add(Device("cart7", "jetson", "10.0.0.7"))
    device_book.add(Device("cart8", "linux", "10.0.0.8"))
    device_book.remember(device_book.find("cart7"), {"board": "Orin Nano", "cpu": "Cortex"})
    done = CliRunner().invoke(cli.app, ["devices", "list"])
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert " ".join(rows["name"]) == "name kind address hardware when last seen"
    assert rows["cart7"] == ["cart7", "jetson", "ssh://10.0.0.7", "Orin", "Nano"]
    assert rows["cart8"] == ["cart8", "linux", "ssh://10.0.0.8", "-"]
    assert rows["local"][:4] == ["local", "local", "this", "machine"]
    assert done.stderr == ""


RECORDED = Device("cart7", "jetson", "10.0.0.7", 2222, "nurse", "/my keys/k", None, "/data", "/venv/bin/python")


def test_a_device_is_recorded_otherwise_by_commands_that_keep_all_else() -> None:
    add = "medge devices add cart7 ssh://nurse@10.0.0.7:2222 --kind jetson --identity '/my keys/k' --folder /data"
    assert device_book.again(RECORDED) == f"{add} --python /venv/bin/python"
    device_book.add(RECORDED)
    assert device_book.again(RECORDED) == f"medge devices remove cart7; {add} --python /venv/bin/python"
    assert device_book.again(RECORDED, python="PATH") == f"medge devices remove cart7; {add} --python PATH"
    assert device_book.again(RECORDED, host="", identity=None).endswith(
        "add cart7 --offline --kind jetson --folder /data --python /venv/bin/python"
    )


def test_every_printed_command_that_records_a_device_again_can_be_typed_as_it_is() -> None:
    device_book.add(RECORDED)
    run, commands = CliRunner().invoke, device_book.again(RECORDED, host="", identity=None)
    for command in commands.split("; "):
        assert run(cli.app, shlex.split(command)[1:]).exit_code == 0, command
    assert device_book.find("cart7") == replace(RECORDED, host="", port=None, user=None, identity=None)


def test_a_host_key_that_changed_is_recorded_again_with_everything_that_was_recorded() -> None:
    asyncssh = pytest.importorskip("asyncssh", reason="needs the extra ssh")
    device_book.add(RECORDED)
    for error in (asyncssh.HostKeyNotVerifiable("no"), asyncssh.PermissionDenied("no"), ConnectionRefusedError()):
        fix = link_errors.explained(error, RECORDED, 1.0, connecting=True, logged_in=False).fix
        assert "medge devices remove cart7; medge devices add cart7 " in fix
        assert "--folder /data --python /venv/bin/python" in fix


def test_what_a_device_says_of_its_folder_comes_with_the_name_and_all_that_is_recorded() -> None:
    device_book.add(RECORDED)
    error = conversation.error_of({"error": "full", "kind": "MissingError", "fix": supervisor.SPACE}, RECORDED)
    assert "medge devices clean cart7" in error.fix
    assert "medge devices remove cart7; medge devices add cart7 ssh://nurse@10.0.0.7:2222 --kind jetson" in error.fix
    assert error.fix.endswith("--folder PATH --python /venv/bin/python")


def test_removing_a_device_that_was_reached_says_that_what_jobs_kept_stays_and_how_to_clean_it() -> None:
    def said() -> str:
        return CliRunner().invoke(cli.app, ["devices", "remove", "cart7"]).stderr

    device_book.add(RECORDED)
    assert said() == "cart7 is forgotten.\n"
    device_book.add(replace(RECORDED, facts={"cpu": "x"}))
    text = said()
    assert "What jobs kept there, in /data, stays, if anything does." in text
    assert device_book.add_command(RECORDED) + "; medge devices clean cart7; medge devices remove cart7" in text


@pytest.mark.parametrize("command", ["doctor", "clean"])
def test_a_kind_with_several_devices_is_answered_with_a_command_that_there_is(command: str) -> None:
    for name in ("cart7", "cart8"):
        device_book.add(Device(name, "jetson", "a"))
    error = refusal(command, "jetson")
    assert error.fix == f"Name one: medge devices {command} cart7"


def refusal(*words: str) -> RecipeError:
    """What `medge devices WORDS` raises."""
    error = CliRunner().invoke(cli.app, ["devices", *words]).exception
    assert isinstance(error, RecipeError)
    return error


def test_an_address_of_a_machine_without_a_network_is_refused_with_both_ways_out() -> None:
    error = refusal("add", "cart9", "ssh://nurse@10.0.0.9", "--offline", "--kind", "jetson")
    assert error.message == "--offline says that cart9 has no network, and ssh://nurse@10.0.0.9 is an address in one."
    assert "medge devices add cart9 ssh://nurse@10.0.0.9 --kind jetson" in error.fix
    assert "medge devices add cart9 --offline --kind jetson" in error.fix
    assert device_book.devices() == []


def test_a_device_without_an_address_is_refused_with_both_ways_out() -> None:
    error = refusal("add", "cart9")
    assert error.message == "No address of cart9 was given."
    assert "ssh://user@host" in error.fix
    assert "--offline" in error.fix


@pytest.mark.parametrize(
    ("command", "truth"),
    [
        ("remove", "is always there, and not in the book"),
        ("doctor", "there is no link to it"),
        ("clean", "engines stay in the run's own folder"),
    ],
)
def test_what_cannot_be_done_to_this_machine_says_why_and_names_one_it_can_be_done_to(command: str, truth: str) -> None:
    nobody = refusal(command, "local")
    assert truth in nobody.message
    assert "medge devices add NAME" in nobody.fix
    device_book.add(Device("cart7", "linux", "a"))
    assert f"medge devices {command} cart7" in refusal(command, "local").fix


def a_run_that_asks_for(word: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/recipe.yaml").write_text(f"name: x\nprofile: {{device: {word}}}\n")


@pytest.mark.parametrize("more", [[], ["--export", "job.zip"]])
def test_a_removed_device_that_the_runs_recipe_asks_for_says_so_and_how_to_ask_for_another(
    more: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_run_that_asks_for("cart7", monkeypatch, tmp_path)
    device_book.add(Device("cart7", "linux", "a"))
    device_book.remove("cart7")
    error = CliRunner().invoke(cli.app, ["profile", *more]).exception
    assert isinstance(error, MissingError)
    assert error.message.startswith("There is no device 'cart7'. runs/x/recipe.yaml asks for it (profile.device)")
    assert "medge profile --device local" in error.fix
    assert "--set profile.device=local" in error.fix
    assert error.exit_code == 3


def test_a_recipe_given_to_run_is_named_where_it_asks_for_an_unknown_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: x\nprofile: {device: cart7}\n")
    error = CliRunner().invoke(cli.app, ["run", "mine.yaml"]).exception
    assert isinstance(error, MissingError)
    assert "mine.yaml asks for it (profile.device)" in error.message


def test_an_unknown_device_that_only_the_option_names_is_not_blamed_on_the_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_run_that_asks_for("local", monkeypatch, tmp_path)
    error = CliRunner().invoke(cli.app, ["profile", "--device", "cart8"]).exception
    assert isinstance(error, MissingError)
    assert error.message == "There is no device 'cart8'."
