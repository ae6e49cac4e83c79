"""Model assets: the base model, how it came in, what is trained from it, and the record."""

import dagster as dg

from assets.launchpad import as_config, read_config
from assets.metadata import describe_admission, tabulate
from assets.progress import following
from assets.resources import ProjectResource
from assets.versions import find_digest, materialised
from pedigree.admission.gate import open_gate
from pedigree.base_models import admit_base_model, load_base_model_source, record_base_model
from pedigree.checks import digest_code
from pedigree.params import Params, TrainingParams
from pedigree.release import attest_model
from pedigree.training.assessment import record_evaluation
from pedigree.training.run import load_record, train_model

OWNERS = ["team:ml-engineering"]
_TRAINING_CODE = ("loop.py", "model.py", "order.py", "determinism.py", "worker.py", "run.py")


def build_base_model(params: Params) -> list[dg.AssetsDefinition]:
    """Return the assets of the model that training starts from: its admission, and the model."""

    @dg.asset(
        group_name="models",
        kinds={"safetensors", "in-toto"},
        owners=OWNERS,
        code_version=digest_code("base_models.py", "fetching.py", "archives.py"),
        description=f"What base_models/{params.base_model}.yaml declares, fetched by digest and "
        "taken through the gate: each state is a signed statement, whatever the outcome. Nothing "
        "is installed or run.",
    )
    def base_model_admission(
        context: dg.AssetExecutionContext, project: ProjectResource
    ) -> dg.MaterializeResult:
        place = project.open()
        source = load_base_model_source(place.root / "base_models", params.base_model)
        admission = admit_base_model(open_gate(place), source, place.root, project.now())
        return materialised(admission.digest, {}, describe_admission(admission, source.uri))

    @dg.asset(
        deps=["base_model_admission"],
        group_name="models",
        kinds={"safetensors"},
        owners=OWNERS,
        code_version=digest_code("base_models.py", "admission/gate.py"),
        description="The base model: what was admitted, opened by digest and verified.",
    )
    def base_model(
        context: dg.AssetExecutionContext, project: ProjectResource
    ) -> dg.MaterializeResult:
        place, digest = project.open(), find_digest(context, "base_model_admission")
        source = load_base_model_source(place.root / "base_models", params.base_model)
        model = record_base_model(open_gate(place), source, digest)
        return materialised(
            model.digest,
            {"base_model_admission": digest},
            {
                "uri": source.uri,
                "sha256": source.sha256,
                "licence": source.licence,
                "publisher": source.publisher,
                "files": tabulate([entry.model_dump() for entry in model.files]),
                "path": dg.MetadataValue.path(str(model.path)),
            },
        )

    return [base_model_admission, base_model]


def build_fine_tuned_model(params: Params) -> dg.AssetsDefinition:
    """Return the asset of the trained model."""
    config_class = as_config("TrainingConfig", params.train)

    @dg.asset(
        deps=["training_snapshot", "evaluation_snapshot", "base_model"],
        group_name="models",
        kinds={"pytorch", "mlflow", "safetensors"},
        owners=OWNERS,
        code_version=digest_code(*[f"training/{name}" for name in _TRAINING_CODE]),
        description="The model: trained only on data whose verdicts the policy accepts, whichever "
        "run they come from. LoRA adapter and merged weights in safetensors, logged in MLflow.",
    )
    def fine_tuned_model(
        context: dg.AssetExecutionContext,
        config: config_class,  # pyright: ignore[reportInvalidTypeForm]
        project: ProjectResource,
    ) -> dg.MaterializeResult:
        place = project.open()
        names = ("training_snapshot", "evaluation_snapshot", "base_model")
        inputs = {name: find_digest(context, name) for name in names}
        with following(context, "training") as report:
            record = train_model(
                place,
                params.model_copy(update={"train": read_config(config, TrainingParams)}),
                training=inputs["training_snapshot"],
                evaluation=inputs["evaluation_snapshot"],
                base=inputs["base_model"],
                source=load_base_model_source(place.root / "base_models", params.base_model),
                invocation=context.run.run_id,
                clock=project.now,
                report=report,
                inherited=project.environment(),
            )
        return materialised(
            record.model_digest,
            inputs,
            {
                "adapter_digest": record.adapter_digest or "none",
                "steps": record.steps,
                "tokens": record.tokens,
                "final_loss": record.final_loss,
                "mode": record.inputs.params.mode,
                "code_commit": str(record.inputs.code.commit),
                "code_dirty": record.inputs.code.dirty,
                "mlflow_run": record.mlflow_run,
                "path": dg.MetadataValue.path(str(place.root / record.location)),
                "files": tabulate([entry.model_dump() for entry in record.model_files]),
            },
        )

    return fine_tuned_model


@dg.asset(
    deps=["fine_tuned_model", "evaluation_snapshot"],
    group_name="models",
    kinds={"pytorch", "mlflow"},
    owners=OWNERS,
    code_version=digest_code("training/evaluation.py", "training/assessment.py"),
)
def model_evaluation(
    context: dg.AssetExecutionContext, project: ProjectResource
) -> dg.MaterializeResult:
    """Accuracy on the evaluation snapshot that belongs to the model, overall and per source."""
    digest = find_digest(context, "fine_tuned_model")
    record = load_record(project.open(), digest)
    with following(context, "evaluation") as report:
        evaluation, statement = record_evaluation(
            project.open(), record, project.now(), report, project.environment()
        )
    snapshot = record.evaluation_snapshot.digest
    by_source = [
        {"source": name, "rows": rows, "correct": right, "accuracy": right / rows}
        for name, (rows, right) in sorted(evaluation.by_source.items())
    ]
    return materialised(
        statement.digest,
        {"fine_tuned_model": digest, "evaluation_snapshot": snapshot},
        {
            "accuracy": evaluation.accuracy,
            "rows": evaluation.rows,
            "by_source": tabulate(by_source),
            "model_digest": digest,
            "mlflow_run": record.mlflow_run,
        },
    )


@dg.asset(
    deps=["fine_tuned_model", "model_evaluation"],
    group_name="release",
    kinds={"in-toto"},
    owners=OWNERS,
    code_version=digest_code("release.py", "training/record.py", "evidence/signing.py"),
)
def model_attestation(
    context: dg.AssetExecutionContext, project: ProjectResource
) -> dg.MaterializeResult:
    """The signed training record (SLSA provenance): all that the model was made of."""
    digest = find_digest(context, "fine_tuned_model")
    evaluation = find_digest(context, "model_evaluation")
    statement = attest_model(project.open(), digest, project.now())
    return materialised(
        statement.digest,
        {"fine_tuned_model": digest, "model_evaluation": evaluation},
        {
            "model_digest": digest,
            "statement": dg.MetadataValue.path(str(statement.path)),
            "predicate_type": str(statement.content["predicateType"]),
        },
    )
