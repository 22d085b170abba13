"""One run of a job, from its configuration to its model's file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.runner.checkpoints import Checkpoints
from worker.runner.data.prepare import prepare
from worker.runner.data.split import Split, load_split
from worker.runner.jobspec import JobSpec, Places, job_spec, shown
from worker.runner.loop import Loop, Run, Trained
from worker.runner.model import head, layers
from worker.runner.model.head import Model
from worker.runner.model_file import NAME, TrainedModel, save_model
from worker.runner.options import Options, parse
from worker.runner.protocol import Reporter, log
from worker.runner.schedule import Schedule
from worker.runner.scores import metric_names
from worker.runner.signals import Signals
from worker.runner.stopping import Stopping
from worker.runner.trainers import choice
from worker.runner.trainers.base import Plan


def run_job(
    config: Mapping[str, Any], places: Places, reporter: Reporter, signals: Signals
) -> None:
    """Train the job's model and report it. Raises Fault, Terminated, OSError."""
    job = job_spec(config)
    options = parse(job.hyperparameters, job.optimizer)
    definition = layers.parse(job.layers)
    trainer_name = choice.choose(options.trainer)
    split = load_split(job, places.data, options, definition)
    model = head.fit(
        definition,
        tuple(split.x.shape[1:]),
        loss=job.loss,
        classes=None if split.classes is None else len(split.classes),
        targets=split.targets,
    )
    metrics = metric_names(job.metrics, classes=split.classes is not None)
    data = prepare(split, model.layers[0].layer, options, linear_end=model.linear_end)
    trainer = choice.make(
        trainer_name,
        Plan(
            model=model,
            data=data,
            classes=None if split.classes is None else len(split.classes),
            optimizer=options.optimizer,
            batch_size=job.batch_size,
            seed=job.seed,
            repeatable=job.seeded,
            gradient_clip=options.gradient_clip,
            mixed_precision=options.mixed_precision,
            device=job.required_device,
        ),
    )
    log(
        f"{trainer.about}: {len(data.x)} samples to train with, {len(data.held_x)} held out, "
        f"input {model.input_shape}, loss {model.loss}, seed {job.seed}"
    )
    trained = Loop(
        Run(
            trainer=trainer,
            data=data,
            epochs=job.epochs,
            batch_size=job.batch_size,
            seed=job.seed,
            rate=options.optimizer.rate,
            loss=model.loss,
            metrics=metrics,
            checkpoint_every=job.checkpoint_every,
        ),
        reporter,
        Checkpoints(
            places.checkpoints,
            keep=options.keep_checkpoints,
            made_from=_made_from(job, data.digest, trainer_name),
        ),
        signals,
        stopping=Stopping(options.early_stopping, has_held_out=len(data.held_x) > 0),
        schedule=Schedule(options.schedule, job.epochs),
    ).train()
    final = _final(trained)
    path, sha256 = _save(
        places.output,
        TrainedModel(
            input_shape=model.input_shape,
            layers=model.layers,
            weights=trained.weights,
            loss=model.loss,
            classes=split.classes,
            input_scaling=data.input_scaling,
            target_scaling=data.target_scaling,
            about=_about(job, options, model, split, final, trainer.about),
        ),
    )
    signals.ignore()
    reporter.succeeded(path, sha256, final)


def _final(trained: Trained) -> dict[str, float]:
    """The metrics of the model that is saved: ``loss``, ``accuracy``… of the samples held out.

    Those of training are ``train_loss`` and so on. Where nothing is held out, both are the same.
    """
    held = {
        name.removeprefix("val_"): value
        for name, value in trained.metrics.items()
        if name.startswith("val_")
    }
    of_training = {k: v for k, v in trained.metrics.items() if not k.startswith("val_")}
    return {
        **of_training,
        **held,
        **{name: value for name, value in trained.metrics.items() if name.startswith("val_")},
        **{f"train_{name}": value for name, value in of_training.items()},
        "epochs": trained.epochs,
        "best_epoch": trained.best_epoch,
    }


def _save(output: Path, model: TrainedModel) -> tuple[Path, str]:
    output.mkdir(parents=True, exist_ok=True)
    path = output / NAME
    return path, save_model(path, model)


def _about(
    job: JobSpec,
    options: Options,
    model: Model,
    split: Split,
    final: Mapping[str, float],
    trainer: str,
) -> dict[str, str]:
    return {
        "job_id": job.job_id,
        "trainer": trainer,
        "seed": str(job.seed),
        "dataset_uri": shown(job.dataset_uri),
        "validation_split": f"{options.validation_split:g}",
        "features": json.dumps(split.features),
        "target": split.target,
        "metrics": json.dumps(final),
    }


def _made_from(job: JobSpec, data: str, trainer: str) -> str:
    """What a checkpoint depends on. The number of epochs is none of it: more may be trained."""
    told = json.dumps(
        [
            job.layers, job.optimizer, job.loss, job.input_shape, job.hyperparameters,
            job.batch_size, job.seed, data, trainer,
        ],
        sort_keys=True,
    )  # fmt: skip
    return hashlib.sha256(told.encode()).hexdigest()
