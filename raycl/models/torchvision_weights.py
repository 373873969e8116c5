"""Weights that torchvision publishes, by its own names of tensors and files."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raycl.errors import DataError
from raycl.models.weights import Weights

STAGE_BLOCKS = 2
"""Blocks of each of ResNet-18's stages."""
PARTS = {"conv1": "residual.0", "bn1": "residual.1", "conv2": "residual.3", "bn2": "residual.4"}
BLOCK = re.compile(r"layer(\d)\.(\d)\.(conv1|bn1|conv2|bn2|downsample\.\d)\.(.+)")


@dataclass(frozen=True)
class TorchvisionResNet18:
    """torchvision's ``ResNet18_Weights.IMAGENET1K_V1``; the head of 1000 classes is left out.

    Attributes:
        digest: how the SHA-256 of the file begins, as its name says.
    """

    about: str = "torchvision's ResNet-18, trained on ImageNet"
    file: str = "weights/resnet18-f37072fd.pth"
    digest: str = "f37072fd"
    features: int = 512
    url: str = "https://download.pytorch.org/models/resnet18-f37072fd.pth"

    def read(self, file: Path) -> Weights:
        """The backbone under our names.

        Raises:
            DataError: the file is damaged, or holds something else.
        """
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            tensors = dict(_renamed(name, tensor) for name, tensor in state.items() if not name.startswith("fc."))
        except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, ValueError, AttributeError) as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{file}: not torchvision's file of ResNet-18 ({told}); fetch {self.url} again") from error
        for name in [name for name in tensors if name.endswith("running_var")]:  # older files lack the counts
            tensors.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return Weights({"name": "resnet18_imagenet"}, (3, 224, 224), mean, std, tensors, {"data": "ImageNet-1k"})

    def download(self, file: Path) -> None:
        """Fetch the file; it is checked and moved into place as a whole.

        Raises:
            DataError: it cannot be fetched.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(self.url, str(file), hash_prefix=self.digest, progress=False)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{self.url} could not be downloaded to {file} ({error}); fetch it by other means"
            ) from error


def _renamed(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """``layer1.0.conv1.weight`` -> ``4.residual.0.weight``; the stem is 0 (convolution) and 1 (norm).

    Raises:
        ValueError: ResNet-18 has no such tensor.
    """
    if name.startswith(("conv1.", "bn1.")):
        return name.replace("conv1.", "0.").replace("bn1.", "1."), tensor
    match = BLOCK.fullmatch(name)
    if match is None:
        raise ValueError(f"ResNet-18 has no tensor {name!r}")
    stage, block, part, rest = match.groups()
    inner = PARTS.get(part) or part.replace("downsample", "shortcut")
    return f"{4 + STAGE_BLOCKS * (int(stage) - 1) + int(block)}.{inner}.{rest}", tensor


IMAGENET = TorchvisionResNet18()
