"""Avalanche's side of :mod:`beside_avalanche`: run by it in an environment of its own, which knows nothing of raycl.

    python benchmarks/avalanche_side.py DATA.npz STRATEGY BATCH WIDTH OPTIONS

DATA.npz holds x and y of every task (``train_x0``, ``test_y3``); OPTIONS are the strategy's, as JSON. Prints CPU
seconds of training and of evaluation as JSON.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import supervised
from avalanche.training.plugins import EvaluationPlugin
from torch import nn


def main(path: str, strategy: str, batch: int, width: int, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = np.load(path)
    tasks = sum(name.startswith("train_x") for name in data)
    splits = {
        split: [tuple(torch.from_numpy(data[f"{split}_{column}{task}"]) for column in "xy") for task in range(tasks)]
        for split in ("train", "test")
    }
    stream = tensors_benchmark(train_tensors=splits["train"], test_tensors=splits["test"], task_labels=[0] * tasks)
    layers = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    network = nn.Sequential(*layers)
    learner = getattr(supervised, strategy)(
        model=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3, fused=True),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=1,
        eval_mb_size=1000,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
        **options,
    )
    trained = evaluated = 0.0
    for task, experience in enumerate(stream.train_stream):
        begun = time.process_time()
        learner.train(experience)
        learned = time.process_time()
        learner.eval(stream.test_stream[: task + 1])
        trained, evaluated = trained + learned - begun, evaluated + time.process_time() - learned
    print(json.dumps({"training": trained, "evaluation": evaluated}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), json.loads(sys.argv[5]))
