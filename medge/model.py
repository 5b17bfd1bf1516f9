"""The classifier that medge trains, compresses and exports: preprocessing, timm backbone and head in one module.

Its input is what the engine's input will be (uint8 NHWC at model size), so exporting it is direct.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medge import console, torchvision_ops
from medge.errors import IntegrityError, RecipeError, ToolError
from medge.records import from_json, read_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medge.data.dataset import DataSet

torchvision_ops.define_missing()

__all__ = ["Classifier", "ModelSpec", "create", "load", "predict", "save", "specify", "write_bytes"]

HEADS = ("batchnorm", "plain")


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build the same module again, apart from its weights.

    `timm_name` may carry a tag (`resnet18.a1_in1k`). `mean` and `std` are of pixels in 0..1, as timm gives them.
    `size` is the side of the square input in pixels. `weights` says where training started: source and sha256.
    `labels` are the classes' names in order; empty where nobody has said them.
    """

    timm_name: str
    classes: int
    head: str
    dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    weights: str = "none"
    labels: tuple[str, ...] = ()


class Classifier(nn.Module):
    """uint8 or float images [N, H, W, 3] in 0..255 -> logits float32 [N, C], features float32 [N, D].

    Cast, layout and normalisation are inside. The head runs in float32 even under autocast: bfloat16 logits have three
    significant digits, and ties among them cost AUC.

    `kept`: of a pruned model, the indices int64 [D] of the fine-tuned model's features that its own are; None where
    none were pruned, empty where they are not comparable (another network). `sparse`: whether its zero weights are to
    stay zero. `side`: pixels to which each side of an image is reduced before the backbone; None leaves it.
    """

    def __init__(self, spec: ModelSpec, backbone: nn.Module, dimensions: int) -> None:
        super().__init__()
        self.spec = spec
        self.dimensions = dimensions
        self.sparse = False
        self.side: int | None = None
        self.backbone = backbone
        layers: list[nn.Module] = [nn.Dropout(spec.dropout), nn.Linear(dimensions, spec.classes)]
        if spec.head == "batchnorm":
            layers.insert(0, nn.BatchNorm1d(dimensions))
        self.head = nn.Sequential(*layers)
        self.kept: Tensor | None
        self.register_buffer("kept", None, persistent=False)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", 255 * torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(spec.std).view(1, 3, 1, 1)), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.pooled(images)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features), features

    def pooled(self, images: Tensor) -> Tensor:
        """The backbone's pooled features, float32 [N, D]."""
        # Permuting NHWC gives NCHW in channels_last memory: the layout that convolutions on CPU and tensor cores want.
        pixels = (images.permute(0, 3, 1, 2).to(torch.float32) - self.mean) * self.scale
        if self.side is not None:  # after normalisation, which lowering knows by its place at the input
            pixels = nn.functional.interpolate(pixels, size=(self.side, self.side), mode="bilinear")
        features: Tensor = self.backbone(pixels)
        return features.to(torch.float32)


def specify(timm_name: str, *, classes: int, head: str, dropout: float, size: int) -> ModelSpec:
    """The spec of a timm model, mean and std from its pretrained configuration. Raises RecipeError for a name that
    timm does not have, with the nearest it has."""
    import timm

    name, _, tag = timm_name.partition(".")
    if not timm.is_model(name):
        raise RecipeError(f"timm has no model '{timm_name}'.", fix=_nearest(name, timm.list_models()))
    tags = [full for full in timm.list_pretrained(f"{name}*") if full.partition(".")[0] == name]
    if tag and timm_name not in tags:
        raise RecipeError(f"timm has no weights '{tag}' of {name}.", fix=_nearest(timm_name, tags))
    config = timm.models.get_pretrained_cfg(timm_name)
    if head not in HEADS:
        raise RecipeError(f"No head '{head}'.", fix=_nearest(head, list(HEADS)))
    mean, std = (
        (config.mean, config.std) if config else (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )
    if len(mean) != 3:
        raise RecipeError(f"'{timm_name}' takes {len(mean)} channels.", fix="Choose a model that takes RGB images.")
    return ModelSpec(timm_name, classes, head, dropout, tuple(mean), tuple(std), size)


def create(spec: ModelSpec) -> Classifier:
    """A classifier with random weights (from torch's seed), in channels_last memory and training mode.

    `medge.weights.fill` then loads pretrained ones. Raises RecipeError where the backbone cannot take this size.
    """
    import timm

    config = timm.models.get_pretrained_cfg(spec.timm_name)
    fixed = bool(config and config.fixed_input_size)
    options: dict[str, Any] = {"img_size": spec.size} if fixed else {}
    try:
        backbone = timm.create_model(spec.timm_name, pretrained=False, num_classes=0, **options)
        drop_mlp(backbone)
        dimensions = _dimensions(backbone, spec.size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"'{spec.timm_name}' cannot be built for {spec.size} px images: {error}.",
            fix="Change data.size to what the model was made for, or choose another model.",
        ) from error
    model = Classifier(spec, backbone, dimensions)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def drop_mlp(backbone: nn.Module) -> None:
    """VGG without its two 4096-wide layers: features are the 512 pooled channels of the last convolution.

    Those layers hold 119 of 134 million parameters, were trained for 1000 ImageNet classes, and fix the input's size.
    """
    if type(backbone).__name__ == "VGG":
        backbone.pre_logits = nn.Identity()


def save(model: Classifier, folder: Path) -> None:
    """Writes model.safetensors and model.json (the spec), each aside and renamed. Raises ToolError for a model that
    reduces its images, which the spec does not say."""
    from safetensors.torch import save as serialized

    if model.side is not None:
        raise ToolError("A model that reduces its images is kept as ONNX alone.", fix="Save what it was made from.")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(folder / "model.safetensors", serialized(state, metadata={"format": "pt"}))
    write_json(folder / "model.json", model.spec)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Written aside, flushed to the disk and renamed. Raises OSError (a full disk, for one); `path` is never half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load(folder: Path) -> Classifier:
    """The classifier that `save` wrote, in eval mode, on the CPU. Raises IntegrityError if the files do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    spec = from_json(ModelSpec, read_json(folder / "model.json"))
    model = create(spec)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise IntegrityError(
            f"{folder / 'model.safetensors'} is not the model that model.json describes: {error}.",
            fix="Make it again: medge finetune.",
        ) from error
    return model.eval()


def predict(
    model: nn.Module, data: DataSet, indices: NDArray[np.int64], *, description: str, batch_size: int = 64
) -> NDArray[np.float32]:
    """Logits float32 [n, C] of images in the order of `indices`, in eval mode and full float32 precision.

    Works on any module that returns (logits, features); its training mode is put back afterwards.
    """
    device = next(iter([*model.parameters(), *model.buffers()])).device
    was_training = model.training
    model.eval()
    parts = []
    try:
        with torch.inference_mode(), console.progress(description, len(indices)) as advance:
            for start in range(0, len(indices), batch_size):
                images = torch.from_numpy(data.read(indices[start : start + batch_size])).to(device)
                parts.append(model(images)[0].float().cpu().numpy())
                advance(len(images))
    finally:
        model.train(was_training)
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _dimensions(backbone: nn.Module, size: int) -> int:
    """Width of the pooled features, seen by running one grey image: timm's num_features differs from it in some."""
    was_training = backbone.training
    backbone.eval()
    with torch.inference_mode():
        shape = backbone(torch.zeros(1, 3, size, size)).shape
    backbone.train(was_training)
    if len(shape) != 2:
        raise ValueError(f"its features have the shape {tuple(shape)} and are not pooled")
    return int(shape[1])


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=20)
    close.sort(key=lambda name: (-difflib.SequenceMatcher(None, name, word).ratio(), name))
    return f"Did you mean {' or '.join(map(repr, close[:3]))}?" if close else "timm.list_models() lists the names."
