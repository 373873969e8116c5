"""The tables of the results, and what their columns hold, in words."""

from __future__ import annotations

from raycl.results import schema

TABLES = {
    "trials": ("One row for each trial: `data/trials/*.parquet`.", schema.TRIALS),
    "cells": ("One row for each cell of each matrix: `data/cells/*.parquet`.", schema.CELLS),
    "inside": ("One row for each point inside a task and each task: `data/inside/*.parquet`.", schema.INSIDE),
    "online": ("One row for each task predicted as it came: `data/online/*.parquet`.", schema.ONLINE_ROWS),
    "measures": ("One row for each further number of a task: `data/measures/*.parquet`.", schema.MEASURE_ROWS),
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
    "update": "updates of the task made before the point; the last point is after the task has ended",
    "trial": "the trial's name: hash of all that decides its matrix",
    "sweep": "name of the sweep",
    "variant": "name of the variant; empty where the file has none",
    "alias": "name of the method in the sweep file",
    "strategy": "the method",
    "phase": "`search`, `finalist` or `final`",
    "scenario": "`task`, `domain` or `class`",
    "seed": "of the run",
    "scored_on": "`validation` or `test`",
    "trained_on": "the part of the training data that was learned from",
    "selected_by": "the data that chose the point; null where nothing was searched",
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
