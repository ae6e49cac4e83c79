"""A stock Dagster project, as its documentation shows one: a snapshot, a blocking check, a model.

`demos/attacks.py` copies the reviews beside it and runs it with Dagster's own command. It uses
nothing of Pedigree.
"""

import json
import os
import re
from pathlib import Path

import dagster as dg
import pandas as pd

FOLDER = Path(os.environ["STOCK_PROJECT"])


@dg.asset
def training_snapshot() -> dg.MaterializeResult:
    """The reviews to train on."""
    reviews = pd.read_csv(FOLDER / "reviews.csv")
    reviews.to_parquet(FOLDER / "snapshot.parquet")
    return dg.MaterializeResult(metadata={"rows": len(reviews)})


@dg.asset_check(asset=training_snapshot, blocking=True)
def copies_agree_about_the_label() -> dg.AssetCheckResult:
    """Reviews that differ in punctuation only carry one label."""
    reviews = pd.read_parquet(FOLDER / "snapshot.parquet")
    plain = reviews["text"].map(lambda text: re.sub(r"\W+", " ", str(text)).strip())
    conflicts = int((reviews.groupby(plain)["label"].nunique() > 1).sum())
    return dg.AssetCheckResult(
        passed=conflicts == 0,
        description=f"{conflicts} reviews have a copy with another label",
    )


@dg.asset(deps=[training_snapshot])
def reviews_model(context: dg.AssetExecutionContext) -> None:
    """A bag of words and a logistic regression."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    reviews = pd.read_parquet(FOLDER / "snapshot.parquet")
    words = CountVectorizer()
    model = LogisticRegression().fit(words.fit_transform(reviews["text"]), reviews["label"])
    weights = dict(zip(words.get_feature_names_out(), model.coef_[0].tolist(), strict=True))
    (FOLDER / "model.json").write_text(json.dumps(weights))
    context.log.info(f"trained a model on {len(reviews)} reviews")


defs = dg.Definitions(
    assets=[training_snapshot, reviews_model], asset_checks=[copies_agree_about_the_label]
)
