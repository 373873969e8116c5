"""What the shared options that a trial leaves open came to, for its row of the results."""

from __future__ import annotations

from raycl.spec.needs import covered, idle
from raycl.spec.setting import Setting


def came_to(setting: Setting, policy: str) -> dict[str, str | int]:
    """What the shared options that a trial leaves open came to, by dotted path.

    Options that decide nothing for the method are left out: they came to nothing.

    Args:
        setting: the trial's blocks, with the method's own values where it has some.
        policy: which units the training softmax runs over.
    """
    memory = setting.memory
    found: dict[str, str | int] = {
        "training.active_logits": policy,
        "model.head": "per_task" if setting.per_task_head else "single",
        "model.classifier": "linear" if setting.model.classifier == "auto" else setting.model.classifier,
        "memory.selection": setting.selection,
        "memory.combine": "sum" if memory.combine == "auto" else memory.combine,
        "memory.insert": "first_epoch" if memory.insert == "auto" else memory.insert,
        "memory.batch_size": setting.replay_batch,
    }
    silent = idle(setting)
    return {path: value for path, value in found.items() if covered(path, silent) is None}
