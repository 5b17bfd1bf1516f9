"""TensorRT's Python API as far as medge uses it, in the shape of 8.6, 10 or 11 (FAKE_TRT), without a GPU.

FAKE_TRT_DOES says what goes wrong: `warns`, `refuses` (the parser), `no_plan`, `segfaults`, `hangs`, `bad_plan`.
"""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

VERSION = os.environ.get("FAKE_TRT", "10")
DOES = os.environ.get("FAKE_TRT_DOES", "")
__version__ = {"8.6": "8.6.1", "10": "10.3.0", "11": "11.1.0"}[VERSION]


class NetworkDefinitionCreationFlag:
    pass


for _position, _name in enumerate(
    {"8.6": ["EXPLICIT_BATCH"], "10": ["EXPLICIT_BATCH", "STRONGLY_TYPED"], "11": ["STRONGLY_TYPED"]}[VERSION]
):
    setattr(NetworkDefinitionCreationFlag, _name, _position)

BuilderFlag = SimpleNamespace(
    TF32="TF32", SPARSE_WEIGHTS="SPARSE_WEIGHTS", **({} if VERSION == "11" else {"INT8": "INT8", "FP16": "FP16"})
)


class ILogger:
    def __init__(self) -> None:
        pass


class Builder:
    def __init__(self, logger: object) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> SimpleNamespace:
        return SimpleNamespace(flags=flags, num_layers=7)

    def create_builder_config(self) -> SimpleNamespace:
        config = SimpleNamespace(flags={"TF32"})
        config.set_flag = config.flags.add
        config.clear_flag = config.flags.discard
        if DOES != "no_timing":
            _with_timing_cache(config, self.logger)
        return config

    def build_serialized_network(self, network: SimpleNamespace, config: SimpleNamespace) -> bytes | None:
        if DOES == "segfaults":
            os.kill(os.getpid(), 11)
        if DOES == "hangs":
            time.sleep(60)
        if DOES == "no_plan":
            self.logger.log("Severity.ERROR", "Could not find any implementation")
            return None
        if getattr(config, "timing", None) is not None:
            config.timing.content["layers"] += 1
        return json.dumps({"network": network.flags, "config": sorted(config.flags)}).encode()


class _TimingCache:
    """Times of one version: garbage becomes an empty one with a warning, `set_timing_cache` refuses another's."""

    def __init__(self, content: dict[str, object]) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return json.dumps(self.content).encode()


def _with_timing_cache(config: SimpleNamespace, logger: object) -> None:
    def create(content: bytes) -> _TimingCache | None:
        try:
            return _TimingCache(json.loads(content) if content else {"version": __version__, "layers": 0})
        except ValueError:
            if DOES == "refuses_timing":
                return None
            logger.log("Severity.WARNING", "Failed to deserialize timing cache. Returning an empty timing cache.")
            return _TimingCache({"version": __version__, "layers": 0})

    def put(cache: _TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content["version"] != __version__ and not ignore_mismatch:
            return False
        config.timing = cache
        return True

    config.create_timing_cache, config.set_timing_cache = create, put
    config.get_timing_cache = lambda: config.timing


class OnnxParser:
    num_errors = 1

    def __init__(self, network: object, logger: object) -> None:
        self._logger = logger

    def parse(self, data: bytes) -> bool:
        self._logger.log("Severity.VERBOSE", "much")
        if DOES == "warns":
            self._logger.log("Severity.WARNING", "TensorRT doesn't support UINT8. Defaulting to INT8 instead.")
        return DOES != "refuses" and bool(data)

    def get_error(self, position: int) -> SimpleNamespace:
        return SimpleNamespace(desc=lambda: "Unsupported operator: Custom")


class Runtime:
    def __init__(self, logger: object) -> None:
        pass

    def deserialize_cuda_engine(self, data: bytes) -> SimpleNamespace | None:
        return None if DOES == "bad_plan" else SimpleNamespace(create_execution_context=lambda: object())
