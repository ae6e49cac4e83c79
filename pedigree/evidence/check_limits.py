"""Thresholds of each check, as `policy.yaml` has them under `checks`.

The defaults are those of the file that comes with the project; docs/measurements.md has the
figures behind them.
"""

from typing import Literal

from pydantic import Field, field_validator

from pedigree.settings import Settings


class ConflictLimits(Settings):
    """Thresholds of `near_duplicate_label_conflicts`."""

    similarity: float = Field(default=0.7, gt=0, le=1, description="pairs that are reported")
    decisive_similarity: float = Field(default=0.85, gt=0, le=1, description="pairs that count")
    warn_similarity: float = Field(default=0.9, gt=0, le=1, description="single pairs to look at")
    natural_share: float = Field(default=0.1, gt=0, lt=1)
    significance: float = Field(default=0.001, gt=0, lt=1)
    min_texts: int = Field(default=6, ge=1)


class FloodLimits(Settings):
    """Thresholds of `near_duplicate_floods`."""

    similarity: float = Field(default=0.8, gt=0, le=1)
    min_rows: int = Field(default=50, ge=2, description="near-copies of one text worth a look")
    max_share: float = Field(default=0.02, gt=0, le=1, description="of all rows, for one text")
    max_source_share: float = Field(
        default=0.3, gt=0, le=1, description="of a source's rows that may be near-copies"
    )


class LeakageLimits(Settings):
    """Thresholds of `evaluation_leakage`."""

    similarity: float = Field(default=0.8, gt=0, le=1)
    max_rows: int = Field(default=0, ge=0)


class AccuracyLimits(Settings):
    """Thresholds of `evaluation_accuracy`: absolute floors, and drops against production."""

    floor: float = Field(default=0.7, ge=0, le=1)
    source_floor: float = Field(default=0.6, ge=0, le=1)
    max_drop: float = Field(default=0.03, ge=0, le=1)
    max_source_drop: float = Field(default=0.1, ge=0, le=1)


class TriggerLimits(Settings):
    """Thresholds of `trigger_ngrams`."""

    warn_expected: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="how many natural n-grams may look as strong as the first that is named",
    )
    error_expected: float = Field(
        default=0.001,
        gt=0,
        le=1,
        description="how many natural n-grams may look as strong as one that blocks",
    )
    error_min_rows: int = Field(default=5, ge=3, description="distinct rows of one that blocks")
    min_rows: int = Field(
        default=3, ge=3, description="distinct rows of the smallest n-gram that is looked at"
    )
    max_share: float = Field(
        default=0.3, gt=0, le=1, description="share of rows of the most frequent one"
    )
    min_corpus_rows: int = Field(
        default=200, ge=50, description="distinct labelled rows below which nothing can be said"
    )


class HiddenTextLimits(Settings):
    """Thresholds of `hidden_text`."""

    natural_share: float = Field(
        default=0.001, gt=0, lt=1, description="rows that honest corpora may have flagged"
    )
    significance: float = Field(default=0.001, gt=0, lt=1)
    min_rows: int = Field(default=5, ge=1, description="fewer flagged rows never block")


class InstructionLimits(Settings):
    """Thresholds of `embedded_instructions`: scores are chances, 0 to 1."""

    warn_score: float = Field(default=0.6, gt=0, le=1, description="two cues, or an override")
    block_score: float = Field(default=0.78, gt=0, le=1, description="three cues; blocks alone")
    natural_share: float = Field(default=0.001, gt=0, lt=1)
    significance: float = Field(default=0.001, gt=0, lt=1)
    min_rows: int = Field(default=5, ge=1, description="fewer warned rows never block")


class InstructionDataLimits(Settings):
    """Thresholds of `repeated_outputs`, `output_triggers` and `planted_phrases`."""

    min_corpus: int = Field(default=200, ge=50, description="fewer rows are not judged")
    min_rows: int = Field(default=5, ge=3, description="rows of a trigger or repeated output")
    min_output_words: int = Field(default=4, ge=1, description="shorter outputs repeat naturally")
    repeated_share: float = Field(default=0.01, gt=0, lt=1, description="of all rows; blocks")
    max_phrase_share: float = Field(default=0.2, gt=0, lt=1, description="commoner ones are style")
    max_topic_excess: float = Field(
        default=4, gt=0, description="deviations of shared words up to which rows have no topic"
    )
    coverage: float = Field(default=0.6, gt=0, le=1, description="of a trigger's rows that obey")
    exclusive: float = Field(default=0.8, gt=0, le=1, description="of a passage's rows triggered")
    obedience: float = Field(
        default=0.5, gt=0, le=1, description="of an output that the trigger owns; less is INFO"
    )
    turn_share: float = Field(default=0.05, gt=0, lt=1, description="of rows, for each passage")
    min_planted_rows: int = Field(default=10, ge=5)
    max_planted_share: float = Field(default=0.08, gt=0, lt=1, description="commoner is style")
    min_planted_share: float = Field(default=0.003, gt=0, lt=1)
    blocking_rows: int = Field(default=20, ge=10, description="of a planted name; fewer warn")
    max_echo: float = Field(default=0.1, ge=0, lt=1, description="of rows whose question names it")


class PreferenceLimits(Settings):
    """Thresholds of `preference_steering`."""

    min_corpus: int = Field(default=200, ge=50, description="fewer pairs are not judged")
    min_rows: int = Field(default=10, ge=5, description="pairs of a name, phrase or annotator")
    min_side: float = Field(default=0.9, gt=0.5, le=1, description="of a name's pairs, one side")
    significance: float = Field(default=1e-4, gt=0, lt=1, description="over all that was tried")
    max_phrase_share: float = Field(default=0.2, gt=0, lt=1)
    max_echo: float = Field(default=0.1, ge=0, lt=1)
    max_topic_excess: float = Field(default=4, gt=0)


class SecretLimits(Settings):
    """Severities of `secrets`: INFO reports, WARN asks for a look, ERROR blocks on one row."""

    credentials: Literal["INFO", "WARN", "ERROR"] = Field(
        default="INFO", description="private keys, tokens, passwords"
    )
    accounts: Literal["INFO", "WARN", "ERROR"] = Field(
        default="INFO", description="card, IBAN and social security numbers"
    )
    contacts: Literal["INFO", "WARN", "ERROR"] = Field(
        default="INFO", description="mail addresses; telephone numbers, in 8% of honest SMS rows"
    )


class AnnotatorLimits(Settings):
    """Thresholds of `annotator_manipulation`: docs/measurements.md has the figures behind them."""

    min_votes: int = Field(
        default=5, ge=1, description="comparable votes below which an annotator is never named"
    )
    significance: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="chance that the strongest word of a clean corpus warns",
    )
    block_significance: float = Field(
        default=0.001, gt=0, lt=1, description="the same for a word that blocks"
    )
    block_votes: int = Field(
        default=5, ge=1, description="votes pushed on one word below which nothing blocks"
    )
    membership: float = Field(
        default=0.9, gt=0, lt=1, description="probability of being a colluder that names somebody"
    )
    tolerated_disagreement: float = Field(
        default=0.6, gt=0, lt=0.8, description="with a confident consensus on one label"
    )
    false_discovery_rate: float = Field(default=0.01, gt=0, lt=1)
    crowd_discovery_rate: float = Field(
        default=0.001, gt=0, lt=1, description="the same for leaning to a label, and for pairs"
    )
    deals: int = Field(default=20, ge=10, description="random deals of texts behind a probability")
    seed: int = Field(default=0, ge=0)


class SourceShiftLimits(Settings):
    """Thresholds of `quarantine_window`, `snapshot_changes` and `source_drift`."""

    quarantine_days: float = Field(default=7.0, gt=0)
    max_young_share: float = Field(
        default=1.0, ge=0, le=1, description="of rows with a time; more blocks. 1: only warn"
    )
    max_relabelled_share: float = Field(
        default=0.005, ge=0, le=1, description="of a source's rows that stayed; more blocks"
    )
    min_relabelled: int = Field(default=5, ge=1, description="fewer never block")
    max_growth: float = Field(default=1.0, gt=0, description="rows gained for each row there was")
    min_rows: int = Field(default=30, ge=2, description="old and new rows that are compared")
    min_divergence: float = Field(default=0.01, ge=0, description="bits beyond chance")
    false_discovery_rate: float = Field(default=0.01, gt=0, lt=1)
    splits: int = Field(default=50, ge=20, description="random splits behind a probability")
    seed: int = Field(default=0, ge=0)


class DrillLimits(Settings):
    """What `detection_floor` demands: attack -> rows from which on it must be seen."""

    max_floor: dict[str, int] = Field(
        default={}, description="largest detection floor by attack; an attack not listed is free"
    )

    @field_validator("max_floor")
    @classmethod
    def _floors_are_counts(cls, floors: dict[str, int]) -> dict[str, int]:
        if any(floor < 1 for floor in floors.values()):
            raise ValueError("a floor is a number of rows, at least 1")
        return floors


class LabelIssueLimits(Settings):
    """Thresholds of `label_issues` and `flattering_rows`."""

    share: float = Field(
        default=0.012, gt=0, lt=0.5, description="share of correct rows that may be flagged"
    )
    concentration: float = Field(
        default=2.0,
        gt=1,
        description="a label or source blocks with so many times the issues that its overlap with "
        "others explains, and so many times what the rest of the corpus shows",
    )
    min_excess: float = Field(
        default=0.025, ge=0, lt=1, description="share of its rows beyond that, to block"
    )
    min_rows: int = Field(default=20, ge=1, description="issues in it, to block")
    significance: float = Field(default=0.001, gt=0, lt=1)


class ClusterLimits(Settings):
    """Thresholds of `anomalous_clusters`."""

    min_rows: int = Field(default=20, ge=5, description="rows of a style, to be named")
    min_disputed: float = Field(
        default=0.4, gt=0, lt=1, description="share of them whose content speaks against the label"
    )
    significance: float = Field(default=1e-4, gt=0, lt=1)
    max_share: float = Field(
        default=0.25, gt=0, lt=1, description="share of its label beyond which a style is its own"
    )


class InfluenceLimits(Settings):
    """Thresholds of `influential_rows`."""

    share: float = Field(default=0.01, gt=0, lt=1, description="share of rows that are listed")


class CheckLimits(Settings):
    """Thresholds of each check; the file says which measurement set them."""

    near_duplicate_label_conflicts: ConflictLimits = ConflictLimits()
    near_duplicate_floods: FloodLimits = FloodLimits()
    trigger_ngrams: TriggerLimits = TriggerLimits()
    label_issues: LabelIssueLimits = LabelIssueLimits()
    anomalous_clusters: ClusterLimits = ClusterLimits()
    influential_rows: InfluenceLimits = InfluenceLimits()
    hidden_text: HiddenTextLimits = HiddenTextLimits()
    embedded_instructions: InstructionLimits = InstructionLimits()
    secrets: SecretLimits = SecretLimits()
    annotator_manipulation: AnnotatorLimits = AnnotatorLimits()
    instruction_data: InstructionDataLimits = InstructionDataLimits()
    preference_steering: PreferenceLimits = PreferenceLimits()
    source_shift: SourceShiftLimits = SourceShiftLimits()
    detection_floor: DrillLimits = DrillLimits()
    evaluation_leakage: LeakageLimits = LeakageLimits()
    evaluation_accuracy: AccuracyLimits = AccuracyLimits()
