"""The network of a trial that keeps its last state, as a file of safetensors: no code runs when it is read."""

from __future__ import annotations

from pathlib import Path

from raycl.results.trial_store import TrialStore

FILE = "network.safetensors"
HOW_TO_LOAD = f"""\
The network after the last task, by the names of its tensors:

```python
from safetensors.torch import load_file
tensors = load_file("{FILE}")
print({{name: tuple(tensor.shape) for name, tensor in tensors.items()}})
```
"""


def write_network(store: TrialStore, folder: Path) -> bool:
    """Write the network of a trial and how it is loaded; False where no state is kept, or no single network."""
    restored = store.restore() if store.spec.keep_checkpoint else None
    if restored is None:
        return False
    from safetensors.torch import save_file  # late: what is not asked for is not imported

    from raycl.trial import checkpoint

    state = checkpoint.decode(restored[1])
    state = state if store.spec.choosing is None else dict(state["committed"])
    tensors = state["strategy"].get("network", {})
    if not tensors:
        return False
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE)
    (folder / "README.md").write_text(HOW_TO_LOAD)
    return True
