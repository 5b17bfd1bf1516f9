"""The device book and `medge devices`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medge import cli, device_book
from medge.device_book import Device
from medge.errors import IntegrityError, MissingError, RecipeError


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
    assert "--device NAME" in caught.value.fix


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
    with pytest.raises(IntegrityError):
        device_book.devices()


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


def test_another_python_is_named_by_commands_that_keep_all_else() -> None:
    device = Device("cart7", "jetson", "10.0.0.7", 2222, "nurse", "/k", None, "/data")
    assert device_book.with_another_python(device) == (
        "medge devices remove cart7; then medge devices add cart7 ssh://nurse@10.0.0.7:2222 --kind jetson "
        "--identity /k --folder /data --python PATH"
    )


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
