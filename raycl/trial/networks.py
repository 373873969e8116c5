"""Networks of a trial's model, each built afresh, from a start of the trial's own or from pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from raycl.learning.precision import Bfloat16
from raycl.models.network import Network, kaiming, xavier
from raycl.models.registry import Model
from raycl.models.weights import Weights, load_weights, start_from
from raycl.spec.options import ModelConfig


class Networks:
    """What a strategy is lent as :class:`raycl.strategies.context.NewNetwork`.

    Args:
        model: the entry of the catalogue.
        config: its options in this trial.
        image_shape: channels, height, width.
        generator: draws every network's start.
        data_root: below which the weights of ``model.weights`` lie.
        watch: is shown every network, in its place on the device.
        precision: of ``training.precision: bf16``; None for float32.
    """

    def __init__(
        self,
        model: Model,
        config: ModelConfig,
        image_shape: tuple[int, int, int],
        generator: torch.Generator,
        device: torch.device,
        data_root: Path | None,
        watch: Callable[[Network], None],
        precision: Bfloat16 | None = None,
    ) -> None:
        self._model = model
        self._config = config
        self._image_shape = image_shape
        self._generator = generator
        self._device = device
        self._data_root = data_root
        self._watch = watch
        self._precision = precision

    def __call__(self, width: float = 1.0) -> Network:
        """A network without output units, its layers ``width`` times as wide as the model says."""
        config = self._config if width == 1 else self._config.scaled(width)
        network = self._model.build(config, self._image_shape, self._generator)
        if config.classifier == "cosine":
            network.measure_cosines(config.classifier_scale)
        if config.init != "default":
            (xavier if config.init == "xavier" else kaiming)(network.backbone, self._generator)
            network.head.start = config.init
        if config.weights is not None and self.weights is not None:
            start_from(network, self.weights, config.weights)
        network = network.to(self._device)
        self._watch(network)
        if self._precision is not None:
            self._precision.widen(network.head)
        return network

    @cached_property
    def weights(self) -> Weights | None:
        """Where the backbones of this trial start; read once, since some methods make many networks."""
        name = self._config.weights
        return load_weights(name, self._data_root, self._config.weights_hash) if name else None
