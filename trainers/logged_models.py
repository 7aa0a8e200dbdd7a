"""A trained network as one of MLflow's logged models: packed as a detector, tied to the run, the epoch and the data.

model_id = log_model(client, run_id, Path("model.keras"), name="realshard-resnet50", settings=settings, epoch=3)
link_metrics(client, run_id)
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

from trainers import packing
from trainers.tracking import mlflow_module


def log_model(client: Any, run_id: str, keras_file: Path, *, name: str, settings: packing.Settings, epoch: int) -> str:
    """Packs a Keras model and stores it with the run.

    Args:
      client: of MLflow.
      run_id: the run that trained it.
      keras_file: maps uint8 RGB (n, image_size, image_size, 3) to P(fake) (n, 1).
      name: of the logged model; several may have the same.
      settings: what surrounds the network.
      epoch: after which it was taken, counted from 0; MLflow's step.

    Returns:
      MLflow's id of the model: it is loaded from `models:/<id>`.
    """
    mlflow = mlflow_module()
    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id, name, source_run_id=run_id, params=run.data.params, tags={"realshard.epoch": str(epoch)}
    )
    with tempfile.TemporaryDirectory() as temporary:
        verdict, decoder = packing.copy_code(Path(temporary))
        warnings.filterwarnings("ignore", message=".*input example was not provided")  # the signature is complete
        with packing.importable(decoder):  # MLflow executes verdict.py before it has stored the decoder
            mlflow.pyfunc.save_model(
                f"{temporary}/model",
                mlflow_model=mlflow.models.Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=run_id,
                    model_id=model.model_id,
                ),
                python_model=str(verdict),
                artifacts={"keras": str(keras_file), "detector": str(settings.write(Path(temporary, "detector.json")))},
                code_paths=[str(decoder)],
                signature=_signature(mlflow),
                pip_requirements=packing.pip_requirements(keras_file),
            )
        client.log_model_artifacts(model.model_id, f"{temporary}/model")
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, epoch)])
    return model.model_id


def _signature(mlflow: Any) -> Any:
    column, schema = mlflow.types.ColSpec, mlflow.types.Schema
    outputs = [
        column("string", "label", required=False),
        column("double", "p_fake", required=False),
        column("double", "threshold"),
        column("boolean", "unsure", required=False),
        column("string", "error", required=False),
    ]
    return mlflow.models.ModelSignature(inputs=schema([column("binary", "image")]), outputs=schema(outputs))


def link_metrics(client: Any, run_id: str) -> None:
    """Ties the metrics of each epoch that has a logged model to that model, and to the dataset they were measured on:
    `validation/loss` to the run's input of the context `validation`.

    The run keeps the values it has: MLflow knows one by its metric, value, step and time, which are repeated.
    """
    entities = mlflow_module().entities
    run = client.get_run(run_id)
    datasets = {
        tag.value: {"dataset_name": entry.dataset.name, "dataset_digest": entry.dataset.digest}
        for entry in run.inputs.dataset_inputs
        for tag in entry.tags
        if tag.key == "mlflow.data.context"
    }
    models = [(output.step, output.model_id) for output in run.outputs.model_outputs]
    for key in run.data.metrics:
        dataset = datasets.get(key.split("/")[0])
        if dataset is None:  # as for samples of the machine, whose steps are no epochs
            continue
        metrics = [
            entities.Metric(key, metric.value, metric.timestamp, metric.step, model_id=model_id, **dataset)
            for metric in client.get_metric_history(run_id, key)
            for epoch, model_id in models
            if epoch == metric.step
        ]
        client.log_batch(run_id, metrics)
