"""Makes one int8 model with one tool: a child process of benchmarks/quantise_side_by_side.py.

    python quantise_peers.py METHOD FLOAT.onnx CALIBRATION.npy FOLDER [--finetuned FOLDER]

FLOAT.onnx takes `images` uint8 [1, height, width, 3]; CALIBRATION.npy is uint8 [n, height, width, 3]. Writes
FOLDER/model.onnx, or model.xml and model.bin, and made.json: {"seconds", "versions"}. Every tool is used as its own
documentation shows it, with its defaults unless METHOD says otherwise, and each sees all calibration images. It runs
in the tool's own environment, where medge is not installed: only its cure for torchvision beside a CPU-only torch is
taken from this checkout.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

INPUT = "images"
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=sorted(METHODS))
    parser.add_argument("float_onnx", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--finetuned", type=Path, help="medge's own checkpoint, for medge-all-layers")
    chosen = parser.parse_args()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the documented way to block a module
    sys.path.append(str(ROOT))
    make, packages = METHODS[chosen.method]
    begun = time.monotonic()
    make(chosen, np.load(chosen.calibration))
    made = {
        "seconds": round(time.monotonic() - begun, 1),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    (chosen.folder / "made.json").write_text(json.dumps(made))


def each(images: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [1, height, width, 3] of each image in turn."""
    return (image[None] for image in images)


def nncf_quantise(chosen: argparse.Namespace, images: np.ndarray, **options: Any) -> None:
    import nncf
    import openvino as ov

    model = ov.convert_model(str(chosen.float_onnx))
    quantised = nncf.quantize(model, nncf.Dataset(list(each(images))), subset_size=len(images), **options)
    ov.save_model(quantised, str(chosen.folder / "model.xml"))


def nncf_without_overflow_fix(chosen: argparse.Namespace, images: np.ndarray) -> None:
    import nncf

    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE)
    nncf_quantise(chosen, images, advanced_parameters=advanced)


def onnxruntime_static(chosen: argparse.Namespace, images: np.ndarray, **options: Any) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._images = each(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self._images, None)
            return None if image is None else {INPUT: image}

    ready = chosen.folder / "ready.onnx"
    quant_pre_process(str(chosen.float_onnx), str(ready), skip_symbolic_shape=True)
    quantize_static(str(ready), str(chosen.folder / "model.onnx"), Reader(), **options)
    ready.unlink()


def onnxruntime_u8s8(chosen: argparse.Namespace, images: np.ndarray) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    onnxruntime_static(chosen, images, per_channel=True, quant_format=QuantFormat.QDQ, **types)


def optimum_intel(chosen: argparse.Namespace, images: np.ndarray) -> None:
    """Static quantisation of an OVModelForImageClassification that holds the same graph as every other tool gets."""
    mend_torchvision()
    import nncf
    import openvino as ov
    from optimum.intel import OVConfig, OVModelForImageClassification, OVQuantizationConfig, OVQuantizer
    from transformers import PretrainedConfig

    graph = ov.convert_model(str(chosen.float_onnx))
    model = OVModelForImageClassification(graph, config=PretrainedConfig(), compile=False, dynamic_shapes=False)
    config = OVConfig(quantization_config=OVQuantizationConfig(num_samples=len(images)))
    with tempfile.TemporaryDirectory() as temporary:
        samples = nncf.Dataset([{INPUT: image} for image in each(images)])
        OVQuantizer.from_pretrained(model).quantize(samples, ov_config=config, save_directory=temporary)
        take_openvino(Path(temporary), chosen.folder)


def olive_static(chosen: argparse.Namespace, images: np.ndarray) -> None:
    """Olive's pass OnnxQuantizationPreprocess, then OnnxStaticQuantization."""
    mend_torchvision()
    from olive.model import ONNXModelHandler
    from olive.passes.onnx.quantization import OnnxQuantizationPreprocess, OnnxStaticQuantization

    with tempfile.TemporaryDirectory() as temporary:
        model = ONNXModelHandler(model_path=str(chosen.float_onnx))
        ready = olive_pass(OnnxQuantizationPreprocess, {}).run(model, str(Path(temporary) / "ready"))
        settings = {"data_config": olive_data(images)}
        quantised = olive_pass(OnnxStaticQuantization, settings).run(ready, str(Path(temporary) / "int8"))
        shutil.copyfile(quantised.model_path, chosen.folder / "model.onnx")


def olive_openvino(chosen: argparse.Namespace, images: np.ndarray) -> None:
    """Olive's pass OpenVINOQuantization on the OpenVINO model of the same graph."""
    mend_torchvision()
    import openvino as ov
    from olive.model import OpenVINOModelHandler
    from olive.passes.openvino.quantization import OpenVINOQuantization

    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "float", Path(temporary) / "int8"
        source.mkdir()
        target.mkdir()
        ov.save_model(ov.convert_model(str(chosen.float_onnx)), str(source / "model.xml"), compress_to_fp16=False)
        settings = {"data_config": olive_data(images), "transform_fn": lambda item: item[0][INPUT].numpy()}
        olive_pass(OpenVINOQuantization, settings).run(OpenVINOModelHandler(model_path=str(source)), str(target))
        take_openvino(target, chosen.folder)


def olive_pass(kind: Any, settings: dict[str, Any]) -> Any:
    from olive.hardware.accelerator import AcceleratorSpec, Device
    from olive.hardware.constants import ExecutionProvider
    from olive.passes.olive_pass import create_pass_from_dict

    here = AcceleratorSpec(Device.CPU, ExecutionProvider.CPUExecutionProvider)
    return create_pass_from_dict(kind, settings, disable_search=True, accelerator_spec=here)


def olive_data(images: np.ndarray) -> Any:
    """Olive's description of the calibration images: a registered data set of ({input: image}, label)."""
    import torch
    from olive.data.config import DataConfig
    from olive.data.registry import Registry

    @Registry.register_dataset("calibration_arrays")  # type: ignore[untyped-decorator]  # nor has olive
    def arrays(**_: Any) -> Any:
        return [({INPUT: torch.from_numpy(image)}, 0) for image in images]

    return DataConfig(
        name="calibration",
        load_dataset_config={"type": "calibration_arrays"},
        pre_process_data_config={"type": "skip_pre_process"},
        post_process_data_config={"type": "skip_post_process"},
        dataloader_config={"type": "default_dataloader", "params": {"batch_size": 1}},
    )


def medge_all_layers(chosen: argparse.Namespace, images: np.ndarray) -> None:
    """medge's ptq with its defaults, before any gate or rollback: what its first candidate is."""
    import torch

    from medge import model as models
    from medge.compressors import ptq
    from medge.fold import fold_batch_norms
    from medge.onnx_export import onnx_from_torch

    folded, _ = fold_batch_norms(models.load(chosen.finetuned), torch.from_numpy(images[:1]))
    quantised = ptq.quantise(folded, (torch.from_numpy(image) for image in each(images)), ptq.Options())
    onnx_from_torch(quantised, chosen.folder / "model.onnx", size=(images.shape[1], images.shape[2]))


def mend_torchvision() -> None:
    from medge import torchvision_ops

    torchvision_ops.define_missing()


def take_openvino(source: Path, folder: Path) -> None:
    """The only OpenVINO model below `source`, as `folder`/model.xml and model.bin."""
    (xml,) = source.rglob("*.xml")
    shutil.copyfile(xml, folder / "model.xml")
    shutil.copyfile(xml.with_suffix(".bin"), folder / "model.bin")


# name: how it is made, and the packages whose versions matter
METHODS: dict[str, tuple[Callable[[argparse.Namespace, np.ndarray], None], tuple[str, ...]]] = {
    "medge-all-layers": (medge_all_layers, ("torch", "nncf")),
    "nncf": (nncf_quantise, ("nncf", "openvino")),
    "nncf-no-overflow-fix": (nncf_without_overflow_fix, ("nncf", "openvino")),
    "onnxruntime": (onnxruntime_static, ("onnxruntime", "onnx")),
    "onnxruntime-u8s8": (onnxruntime_u8s8, ("onnxruntime", "onnx")),
    "optimum-intel": (optimum_intel, ("optimum-intel", "optimum", "transformers", "nncf", "openvino")),
    "olive-onnx": (olive_static, ("olive-ai", "onnxruntime", "onnx")),
    "olive-openvino": (olive_openvino, ("olive-ai", "nncf", "openvino")),
}


if __name__ == "__main__":
    main()
