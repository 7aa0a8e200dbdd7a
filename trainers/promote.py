"""Moves the alias `champion` of a registered model, if the newest version earned it.

    python -m trainers.promote realshard-resnet50              # shows the decision
    python -m trainers.promote realshard-resnet50 --apply      # and acts on it
    python -m trainers.promote realshard-resnet50 --rollback   # the champion before this one is champion again

The decision is trainers/gate.py's, on the test predictions that each version's run stored, or with `--dataset D` on
those that `python -m trainers.evaluate --model ... --dataset D --log` put into the runs of both: of the same pictures,
none of which may have made one of the two. Where that cannot be told, since data are gone, the decision is shown but
not acted on. It is written to the challenger's tags, and how often a test set decided is counted on the registered
model.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from tfds_builders.records.errors import Refused
from trainers import gate
from trainers.judged import check_same, doubt_apart, judged
from trainers.registry import CHALLENGER, CHAMPION, aliases_locked
from trainers.storage import default_data_dir
from trainers.store import ensure_reachable, tracking_uri
from trainers.tracking import client_of, mlflow_module

DEFAULT_NAME = "realshard-resnet50"
GATE_TAG, PREVIOUS_TAG, USES_TAG = "realshard.gate", "realshard.champion_before", "realshard.gate_uses"
ROLLED_BACK_TAG = "realshard.rolled_back_to"  # of a version that was champion: the one that took its place again


def decide(
    name: str,
    *,
    metric: str = "auc",
    max_drop: float = gate.MAX_DROP,
    dataset: str = "",
    data_dir: str = "",
    apply: bool = False,
) -> dict[str, Any]:
    """Judges the challenger of the registered model `name` against its champion, and promotes it if told to.

    Args:
      name: of the registered model.
      metric: auc or balanced_accuracy.
      max_drop: by how much the recall of a class may fall within a category.
      dataset: whose logged report cards to compare; "": each run's own test predictions.
      data_dir: where the datasets are looked for if they are not where they were; "": the default folder.
      apply: move the alias if the challenger earned it.

    Returns:
      What `gate.judge` gives, with champion_version, challenger_version, applied; doubt: why it cannot be told whether
      one of the two was made from images of the test set, "": neither was; and test_set_uses: how often the gate has
      looked at it, this time included.

    Raises:
      Refused: no such model, no challenger, one that was champion and rolled back, predictions that cannot be compared,
        a model made from images of the test set, or with `apply` one of which that cannot be told, aliases that
        somebody else moved meanwhile, a store that does not answer.
    """
    client = _client()
    with aliases_locked(name):
        aliases = _aliases(client, name)
        if CHALLENGER not in aliases:
            raise Refused(f"{name} has no {CHALLENGER}: train another version; its aliases are {aliases or 'none'}.")
        if CHAMPION not in aliases:
            raise Refused(f"{name} has no {CHAMPION} to compare with: set that alias in MLflow once.")
        versions = {alias: client.get_model_version(name, aliases[alias]) for alias in (CHAMPION, CHALLENGER)}
        if before := versions[CHALLENGER].tags.get(ROLLED_BACK_TAG):
            raise Refused(
                f"{name} version {aliases[CHALLENGER]} was champion and was rolled back to version {before}: it is not "
                "judged again. Train another version, or delete the tag "
                f"{ROLLED_BACK_TAG} of this one in MLflow if what spoke against it is mended."
            )
        tested = {alias: judged(version, dataset, data_dir) for alias, version in versions.items()}
        builds = {alias: each.fingerprints for alias, each in tested.items()}
        if dataset and builds[CHAMPION] != builds[CHALLENGER]:
            raise Refused(f"{dataset} was built again between the evaluations of the two: evaluate both once more.")
        check_same(tested[CHAMPION], tested[CHALLENGER])
        doubts = [doubt_apart(version, tested[CHALLENGER], data_dir) for version in versions.values()]
        doubt = next(filter(None, doubts), "")
        if apply and doubt:
            raise Refused(
                "A challenger is promoted if it is known that no test image made one of the two. It is not known: "
                f"{doubt}. Say with --data-dir where the data are, or set the alias in MLflow yourself."
            )
        decision = gate.judge(
            tested[CHAMPION].predictions,
            tested[CHALLENGER].predictions,
            metric=metric,
            thresholds=(_threshold(versions[CHAMPION]), _threshold(versions[CHALLENGER])),
            max_drop=max_drop,
        )
        decision |= {f"{alias}_version": int(aliases[alias]) for alias in (CHAMPION, CHALLENGER)}
        decision["doubt"] = doubt
        fingerprints = {fingerprint for each in tested.values() for fingerprint in each.fingerprints}
        decision["test_set_uses"] = _count_use(client, name, sorted(fingerprints))
        decision["applied"] = apply and decision["promote"]
        client.set_model_version_tag(name, aliases[CHALLENGER], GATE_TAG, json.dumps(decision, sort_keys=True))
        if decision["applied"]:
            if (moved := _aliases(client, name)) != aliases:  # by somebody who does not share the lock
                raise Refused(f"The aliases of {name} moved meanwhile, from {aliases} to {moved}: decide again.")
            client.set_model_version_tag(name, aliases[CHALLENGER], PREVIOUS_TAG, aliases[CHAMPION])
            client.set_registered_model_alias(name, CHAMPION, aliases[CHALLENGER])
            if _aliases(client, name).get(CHALLENGER) == aliases[CHALLENGER]:
                client.delete_registered_model_alias(name, CHALLENGER)
    return decision


def roll_back(name: str) -> tuple[int, int]:
    """Makes the champion before this one champion again. Returns the version that was, and the one that is now.

    What was champion becomes the challenger unless another version is, and is not judged again: the gate would undo
    this.

    Raises:
      Refused: no champion, or one that replaced none.
    """
    client = _client()
    with aliases_locked(name):
        aliases = _aliases(client, name)
        current = aliases.get(CHAMPION)
        if current is None:
            raise Refused(f"{name} has no {CHAMPION} to roll back from.")
        before = client.get_model_version(name, current).tags.get(PREVIOUS_TAG)
        if before is None:
            raise Refused(f"{name} version {current} replaced no champion: there is nothing to roll back to.")
        client.set_model_version_tag(name, current, ROLLED_BACK_TAG, before)
        client.set_registered_model_alias(name, CHAMPION, before)
        if CHALLENGER not in aliases:
            client.set_registered_model_alias(name, CHALLENGER, current)
    return int(current), int(before)


def _client() -> Any:
    ensure_reachable(tracking_uri())
    return client_of()


def _aliases(client: Any, name: str) -> dict[str, str]:
    try:
        found = client.get_registered_model(name).aliases
    except mlflow_module().exceptions.MlflowException:
        known = sorted(model.name for model in client.search_registered_models())
        raise Refused(f"There is no registered model {name!r}; there is: {', '.join(known) or 'none'}.") from None
    return {alias: str(version) for alias, version in found.items()}


def _threshold(version: Any) -> float:
    return float(version.tags.get("threshold", 0.5))


def _count_use(client: Any, name: str, fingerprints: Sequence[str]) -> int:
    """Counts a look at the test set of each of these datasets, on the registered model; returns the highest count."""
    tags = client.get_registered_model(name).tags
    uses = {f"{USES_TAG}.{fingerprint}": 0 for fingerprint in fingerprints}
    for tag in uses:
        uses[tag] = int(tags.get(tag, 0)) + 1
        client.set_registered_model_tag(name, tag, str(uses[tag]))
    return max(uses.values())


def describe(decision: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    interval = decision["difference_interval"]
    within = "95 %: {:+.4f} to {:+.4f}".format(*interval) if interval else "no interval"
    verdict = "promoted" if decision["applied"] else "may be promoted" if decision["promote"] else "stays challenger"
    lines = [
        f"champion    version {decision['champion_version']}: {decision['metric']} {decision['champion']:.4f}",
        f"challenger  version {decision['challenger_version']}: {decision['metric']} {decision['challenger']:.4f}",
        f"difference  {decision['difference']:+.4f}  ({within}; {decision['images']} images, "
        f"{decision['groups']} groups; {decision['sealed']} images are sealed)",
        *(
            f"lost        {row['category']}, {row['label']}: recall {row['before']:.3f} -> {row['after']:.3f}"
            for row in decision["dropped"]
        ),
        *(
            f"not judged  {row['category'] or 'the only category'}, {row['label']}: {row['images']} images are too few"
            for row in decision["unjudged"]
        ),
        f"verdict     {verdict}: {decision['because']}",
        f"            this test set has decided {decision['test_set_uses']} time(s)",
        *([f"doubt       did a test image make one of the two? {decision['doubt']}"] if decision["doubt"] else []),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, or 1 if the challenger may not be promoted."""
    parser = argparse.ArgumentParser(prog="python -m trainers.promote", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", default=DEFAULT_NAME, help="registered model (default: %(default)s)")
    parser.add_argument("--metric", choices=("auc", "balanced_accuracy"), default="auc", help="default: %(default)s")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=gate.MAX_DROP,
        help="by how much a category's recall of a class may fall (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset", default="", help="compare on this dataset's test split, which both were evaluated on with --log"
    )
    parser.add_argument(
        "--data-dir",
        default=default_data_dir(),
        help="where datasets are that are not any more where they were (default: %(default)s)",
    )
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--apply", action="store_true", help="move the alias if the challenger earned it")
    act.add_argument("--rollback", action="store_true", help="make the champion before this one champion again")
    options = parser.parse_args(arguments)
    if options.rollback:
        was, now = roll_back(options.name)
        print(f"{options.name}: version {now} is champion again; version {was}, which was, is not judged again")
        return 0
    decision = decide(
        options.name,
        metric=options.metric,
        max_drop=options.max_drop,
        dataset=options.dataset,
        data_dir=options.data_dir,
        apply=options.apply,
    )
    print(describe(decision))
    return 0 if decision["promote"] else 1


if __name__ == "__main__":
    sys.exit(main())
