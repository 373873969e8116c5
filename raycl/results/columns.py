"""The tables of the results, and what their columns hold, in words."""

from __future__ import annotations

from raycl.results import schema
from raycl.results.choices import CHOICES

TABLES = {
    "trials": ("One row for each trial: `data/trials/*.parquet`.", schema.TRIALS),
    "cells": ("One row for each cell of each matrix: `data/cells/*.parquet`.", schema.CELLS),
    "inside": ("One row for each point inside a task and each task: `data/inside/*.parquet`.", schema.INSIDE),
    "online": ("One row for each task predicted as it came: `data/online/*.parquet`.", schema.ONLINE_ROWS),
    "measures": ("One row for each further number of a task: `data/measures/*.parquet`.", schema.MEASURE_ROWS),
    "choices": ("One row for each training of a task by a trial that chose: `data/choices/*.parquet`.", CHOICES),
    "tested": (
        "The matrices of a table on test data, as `cells` has them on validation data: `data/tested/*.parquet`.",
        schema.CELLS,
    ),
    "rows": ("One row for each learned task of a trial, its own log: `trials/<hash>/rows/`.", schema.ROWS),
}
"""By name: what a row is, and the columns that every one of its kind has."""

MEANING = {
    "task": "the task just learned; -1 before training",
    "correct": "right answers; in `rows` a list with a number for each task",
    "total": "examples asked, 0 where there were no output units yet; in `rows` a list",
    "train_task": "the row of the matrix: after learning this task; -1 before training",
    "eval_task": "the column of the matrix: asked about this task",
    "name": "`free_weights`, say, of a method's own after the task, or `dead_units`, of the network before it",
    "training": "of the task, in the order in which they were made",
    "stage": "`candidate`; of stability decay `plastic` and `stable`; `retrain`, of what was chosen, on all rows",
    "candidate": "its index; in stability decay that of the learning rate",
    "values": "what was tried, as JSON, by dotted path",
    "judged": "accuracy by which the choice was made; null where none was measured, or where the training failed",
    "kept": "whether the trial went on from it",
    "failure": "why the training failed; empty where it did not",
    "update": "updates of the task made before the point; the last point is after the task has ended",
    "trial": "the trial's name: hash of all that decides its matrix",
    "sweep": "name of the sweep",
    "variant": "name of the variant; empty where the file has none",
    "alias": "name of the method in the sweep file",
    "strategy": "the method",
    "phase": "`search`, `finalists`, `final`, or `table`, by which nothing is selected",
    "scenario": "`task`, `domain` or `class`",
    "seed": "of the run; null where its sources of randomness have different ones",
    "seed_class_order": "of the order of classes, permutations and angles",
    "seed_split": "of what is train and validation, and of samples",
    "seed_model": "of every network's start",
    "seed_batches": "of everything else",
    "scored_on": "`validation` or `test`",
    "trained_on": "the part of the training data that was learned from",
    "selected_by": "the data that chose the point, `validation` or `memory`; `none` where nothing was searched",
    "status": "`finished`, `pruned` or `failed`",
    "reason": "why it was pruned or failed",
    "value": "what the search maximises; in `measures` the number",
    "tasks_done": "tasks learned",
    "raycl": "version",
    "commit": "of the working copy",
    "code": "fingerprint of the method's code",
    "data": "fingerprint of the data set's content",
    "split_hash": "fingerprint of what is train, validation and test",
    "torch": "version",
    "threads": "of the trial",
    "cpu_capability": "instruction set that torch uses, and the CPU's name; another one may round otherwise",
    "active_logits": "what `training.active_logits` came to",
    "inference_batch": "rows pooled for each prediction",
    "upper_bound": "whether the method may see other tasks' data",
    "num_tasks": "of the stream",
    "provenance": "further facts, as JSON",
    "wall_seconds": "from growing the network to the end of the task",
    "cpu_seconds": "the same, of processor time",
    "evaluation_seconds": "of evaluation, on the wall",
    "updates": "of the training loop, and those a method makes beside it",
    "examples": "rows of the batches that updates are made from",
    "parameters": "trainable numbers after the last task",
    "state_bytes": "what the method keeps between tasks, without the replay memory",
    "buffer_bytes": "what the replay memory holds, charged as pixels",
    "buffer_examples": "rows in the replay memory",
    "forward_examples": "rows through networks, once for each network and pass",
    "gradient_examples": "backward passes of rows, counted alike",
    "budget_spent": "of these, what updates spent of `training.budget`, in its unit; null without one",
    "spec": "all options, as JSON",
}
"""Columns by name; metrics speak for themselves (:class:`raycl.matrix.AccuracyMatrix`)."""

_SHARES = (
    "average_accuracy",
    "average_incremental_accuracy",
    "pooled_accuracy",
    "pooled_average_incremental_accuracy",
    "learning_accuracy",
    "judged",
)
_DIFFERENCES = ("backward_transfer", "forward_transfer", "forgetting", "forgetting_all_rows")
_COUNTS = {
    "correct": "examples",
    "total": "examples",
    "tasks_done": "tasks",
    "num_tasks": "tasks",
    "updates": "updates",
    "update": "updates",
    "examples": "examples",
    "parameters": "numbers",
    "state_bytes": "bytes",
    "buffer_bytes": "bytes",
    "buffer_examples": "examples",
    "forward_examples": "examples",
    "gradient_examples": "examples",
    "wall_seconds": "seconds",
    "cpu_seconds": "seconds",
    "evaluation_seconds": "seconds",
    "threads": "threads",
    "inference_batch": "examples",
}
UNITS = {**dict.fromkeys((*_SHARES, *_DIFFERENCES), "share of 1"), **_COUNTS}
"""Units of the columns that are numbers."""
RANGES = {
    **dict.fromkeys(_SHARES, ("0", "1")),
    **dict.fromkeys(_DIFFERENCES, ("-1", "1")),
    **dict.fromkeys(_COUNTS, ("0", "inf")),
    **dict.fromkeys(("task", "train_task"), ("-1", "inf")),
    **dict.fromkeys(("eval_task", "training", "candidate", "seed"), ("0", "inf")),
}
"""Least and largest value of the columns that are numbers."""
