"""Several processes on one command: `accelerate launch --num_processes 2 -m medge finetune ...`.

The main process does what a single one does: it holds the run, skips what is unchanged, writes. The others are helpers:
they wait until the main one fine-tunes, do their share of it, and leave when it is done.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from medge.errors import MedgeError

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["dismiss", "is_helper", "serve", "share", "start"]

_WAIT_DAYS = 7  # helpers wait through the data stage; the main process dying ends the launch anyway


def _is_launched() -> bool:
    return "MASTER_ADDR" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_helper() -> bool:
    """Whether this process was launched beside a main one. Reads the environment only."""
    return _is_launched() and int(os.environ.get("RANK", "0")) > 0


def start() -> Accelerator:
    """This launch's processes (usually one); on a CUDA device set to repeat itself exactly."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from datetime import timedelta

    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    from medge.training import make_cuda_repeatable

    patience = InitProcessGroupKwargs(timeout=timedelta(days=_WAIT_DAYS))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patience])
    make_cuda_repeatable()
    return accelerator


def share(accelerator: Accelerator, work: Any) -> Any:
    """The main process's `work`, in every process. Alone, what was given."""
    if accelerator.num_processes == 1:
        return work
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([work])[0]


def serve() -> None:
    """What a helper does: its share of every fine-tuning that the main process begins, until dismissed."""
    from medge.stages import finetune

    accelerator = start()
    while (work := share(accelerator, None)) is not None:
        try:
            finetune.train(accelerator, *work)
        except MedgeError:  # the main process has met the same and tells the user
            continue


def dismiss() -> None:
    """Sends helpers home; the main process calls it last. Nothing where there are none."""
    if _is_launched() and not is_helper():
        share(start(), None)
