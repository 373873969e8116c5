"""Pretrained weights: what a file holds is what a network starts from, and every wrong file is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from pretraining import made, weights_file

from raycl.errors import DataError, UnknownName
from raycl.models import torchvision_weights
from raycl.models.registry import MODELS
from raycl.models.weights import (
    Weights,
    backbone,
    find_weights,
    load_weights,
    start_from,
    weights_hash,
    write_weights,
)

IMAGENET_FILE = "weights/resnet18-f37072fd.pth"


def told(call: Callable[[], object], error: type[Exception] = DataError) -> str:
    """The message of the error, which is one line."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    weights, read = made(3), load_weights(weights_file(tmp_path, seed=3), tmp_path)
    assert (read.model, read.image_shape, read.mean, read.std) == (weights.model, (1, 8, 8), (0.25,), (0.5,))
    assert read.origin == {"data": "none"}
    assert read.tensors.keys() == weights.tensors.keys()
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in weights.tensors.items())


def test_the_backbone_of_a_file_computes_what_the_file_says(tmp_path: Path) -> None:
    name, x = weights_file(tmp_path, seed=4), torch.rand(5, 1, 8, 8)
    tensors = made(4).tensors
    expected = torch.relu(x.flatten(1) @ tensors["1.weight"].T + tensors["1.bias"])
    assert torch.allclose(backbone(load_weights(name, tmp_path), name)(x), expected, atol=1e-6)


def test_half_precision_is_taken_at_full(tmp_path: Path) -> None:
    weights = made()
    write_weights(
        tmp_path / "half.safetensors", replace(weights, tensors={k: t.half() for k, t in weights.tensors.items()})
    )
    network = backbone(load_weights("half.safetensors", tmp_path), "half.safetensors")
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_hashes_name_the_content_and_not_the_file(tmp_path: Path) -> None:
    one, same, other = (weights_file(tmp_path, f"{seed}-{i}.safetensors", seed) for i, seed in enumerate((0, 0, 1)))
    assert weights_hash(one, tmp_path) == weights_hash(same, tmp_path) != weights_hash(other, tmp_path)
    load_weights(one, tmp_path, weights_hash(same, tmp_path))
    message = told(lambda: load_weights(other, tmp_path, weights_hash(one, tmp_path)))
    assert "must be the file with which this work began" in message


@pytest.mark.parametrize("name", ["none.safetensors", "folder/none.safetensors"])
def test_a_missing_file_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    message = told(lambda: load_weights(name, tmp_path))
    assert str(tmp_path / name) in message
    assert "raycl export" in message
    assert "data root" in told(lambda: load_weights(name, None))


def test_a_published_set_is_only_fetched_where_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYCL_DOWNLOAD", raising=False)
    message = told(lambda: load_weights("imagenet", tmp_path))
    assert str(tmp_path / IMAGENET_FILE) in message
    assert "RAYCL_DOWNLOAD=1" in message
    fetched = []

    def fetch(url: str, file: str, *, hash_prefix: str, progress: bool) -> None:
        fetched.append((url, hash_prefix))
        Path(file).write_bytes(b"")

    monkeypatch.setenv("RAYCL_DOWNLOAD", "1")
    monkeypatch.setattr(torchvision_weights.torch.hub, "download_url_to_file", fetch)
    assert find_weights("imagenet", tmp_path) == tmp_path / IMAGENET_FILE
    assert fetched == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    assert "did you mean 'imagenet'?" in told(lambda: load_weights("imagnet", Path()), UnknownName)


class TestDamage:
    """Every wrong file is a DataError of one line that names it."""

    def test_cut_off(self, tmp_path: Path) -> None:
        file = tmp_path / weights_file(tmp_path)
        file.write_bytes(file.read_bytes()[:-9])
        assert str(file) in told(lambda: load_weights(file.name, tmp_path))

    def test_one_number_changed(self, tmp_path: Path) -> None:
        file = tmp_path / weights_file(tmp_path)
        data = bytearray(file.read_bytes())
        data[-2] ^= 1
        file.write_bytes(bytes(data))
        assert "not those that were written" in told(lambda: load_weights(file.name, tmp_path))

    def test_safetensors_of_someone_else(self, tmp_path: Path) -> None:
        safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "x.safetensors")
        assert "not a complete weights file of raycl" in told(lambda: load_weights("x.safetensors", tmp_path))

    def test_no_safetensors_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_text("hello")
        assert "not a complete weights file of raycl" in told(lambda: load_weights("x.safetensors", tmp_path))

    def test_a_pickle_that_would_run_code_is_not_run(self, tmp_path: Path) -> None:
        file, ran = tmp_path / IMAGENET_FILE, tmp_path / "ran"
        file.parent.mkdir()

        class Evil:
            def __reduce__(self) -> tuple[object, tuple[object, ...]]:
                return Path.touch, (ran,)

        torch.save({"conv1.weight": Evil()}, file)
        assert str(file) in told(lambda: load_weights("imagenet", tmp_path))
        assert not ran.exists()

    def test_a_model_that_is_not_installed(self) -> None:
        assert "'x'" in told(lambda: backbone(replace(made(), model={"name": "transformer"}), "x"))
        assert "'x'" in told(lambda: backbone(replace(made(), model={"name": "mlp", "layers": 3}), "x"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("1.bias"), "missing: 1.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "surplus: extra"),
        (lambda tensors: tensors.update({"1.bias": torch.zeros(3)}), "of another shape: 1.bias [3] for [12]"),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
    weights = made()
    tensors = dict(weights.tensors)
    change(tensors)
    assert message in told(lambda: backbone(replace(weights, tensors=tensors), "x.safetensors"))


def test_the_head_stays_as_it_was(tmp_path: Path) -> None:
    weights = made(7)
    config = MODELS.get("mlp").Config.model_validate_json('{"name": "mlp", "hidden": [12]}')
    heads = []
    for start in (False, True):
        network = MODELS.get("mlp").build(config, (1, 8, 8), torch.Generator().manual_seed(1))
        if start:
            start_from(network, weights, "x")
        network.grow_head(3)
        heads.append(network.head.weight)
    assert torch.equal(*heads)


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    for name, buffer in network.named_buffers():  # statistics that tell each norm layer from the others
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if "var" in name else buffer.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def weights(theirs: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    root = tmp_path_factory.mktemp("data")
    (root / "weights").mkdir()
    state = {key: tensor for key, tensor in theirs.state_dict().items() if "num_batches" not in key}
    torch.save(state, root / IMAGENET_FILE)
    return load_weights("imagenet", root)


class TestTorchvision:
    """Our ``resnet18_imagenet`` is torchvision's network, tensor by tensor."""

    def test_features_are_equal(self, theirs: torch.nn.Module, weights: Weights) -> None:
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        body = torch.nn.Sequential(*list(theirs.children())[:-1], torch.nn.Flatten())
        with torch.no_grad():
            expected = body(x.contiguous(memory_format=torch.channels_last))
            assert torch.equal(backbone(weights, "imagenet", (64, 64)).eval()(x), expected)
        assert expected.std() > 0.01

    def test_two_norms_exchanged_would_show(self, theirs: torch.nn.Module, weights: Weights) -> None:
        tensors = dict(weights.tensors)
        for name in ("running_mean", "running_var"):
            first, second = f"4.residual.1.{name}", f"4.residual.4.{name}"
            tensors[first], tensors[second] = tensors[second], tensors[first]
        with pytest.raises(AssertionError):
            self.test_features_are_equal(theirs, replace(weights, tensors=tensors))

    def test_preprocessing_is_imagenets(self, weights: Weights) -> None:
        assert weights.image_shape == (3, 224, 224)
        assert weights.mean == (0.485, 0.456, 0.406)
        assert weights.std == (0.229, 0.224, 0.225)

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / IMAGENET_FILE)
        assert "ResNet-18 has no tensor 'features.0.weight'" in told(lambda: load_weights("imagenet", tmp_path))
