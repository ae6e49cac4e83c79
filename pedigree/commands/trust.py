"""Keys, approvals, promotions, revocations, waivers, and the ledger that lists them."""

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.commands.common import KEY, Commands, add_command, open_project, print_json

if TYPE_CHECKING:
    from pedigree.evidence.store import EvidenceStore, Statement
    from pedigree.project import Project

ROLES = ("builder", "checker", "reviewer", "releaser")
_DIGEST = "the model's, or its first 12 digits or more"
_ENV = "an environment that policy.yaml declares"
_UNTIL = "from when on it counts no longer"
_DATE = "such as 2027-06-30"


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    _add_keys(commands)

    approve = add_command(
        commands,
        "approve",
        "say that a model may go to an environment, or an adapter be merged",
        _approve,
    )
    approve.add_argument("digest", metavar="DIGEST", help=_DIGEST)
    approve.add_argument("--env", required=True, metavar="ENV", help=f"{_ENV}; or merge")
    approve.add_argument("--tenant", metavar="T", help="for this tenant alone")
    approve.add_argument("--key", required=True, help=f"the reviewer's key: {KEY}")
    approve.add_argument("--reason", required=True, metavar="TEXT", help="what it rests on")
    approve.add_argument("--until", metavar="DATE", help=f"{_UNTIL}; {_DATE}")

    promote = add_command(commands, "promote", "give a model to an environment", _promote)
    promote.add_argument("digest", metavar="DIGEST", help=_DIGEST)
    promote.add_argument("--env", required=True, metavar="ENV", help=_ENV)
    promote.add_argument("--tenant", metavar="T", help="to this tenant alone")

    revoke = add_command(commands, "revoke", "say that a digest must not be used any more", _revoke)
    revoke.add_argument(
        "digest", metavar="DIGEST", help="a model's, adapter's, base's or snapshot's"
    )
    revoke.add_argument("--reason", required=True, metavar="TEXT", help="why not")
    revoke.add_argument("--key", help=f"a reviewer's or releaser's key: {KEY}")

    waive = add_command(commands, "waive", "let a failed check pass for a time", _waive)
    waive.add_argument(
        "check", metavar="CHECK", help="such as trigger_ngrams; or conversion, of a pickle"
    )
    waive.add_argument(
        "digest", metavar="DIGEST", help="of what failed it: snapshot, model or pickle"
    )
    waive.add_argument("--until", required=True, metavar="DATE", help=f"{_UNTIL}; {_DATE}")
    waive.add_argument("--key", required=True, help=f"a reviewer's key: {KEY}")
    waive.add_argument("--reason", required=True, metavar="TEXT", help="why it may pass")

    ledger = add_command(commands, "ledger", "the chain of all statements", _ledger)
    ledger.add_argument(
        "action",
        choices=["verify", "checkpoint", "adopt"],
        help="verify the chain; print a line to keep elsewhere; list statements older than it",
    )
    ledger.add_argument(
        "--witness", action="append", default=[], metavar="FILE", help="checkpoints; or git:PATH"
    )
    ledger.add_argument("--keep", type=Path, metavar="FILE", help="add the checkpoint to a file")


def _add_keys(commands: Commands) -> None:
    keys = commands.add_parser(
        "keys", help="whose keys count for what", description="Whose keys count for what."
    )
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    new = add_command(actions, "new", "make a key and register its public half", _new_key)
    new.add_argument("role", choices=ROLES, help="what the key's owner may sign")
    new.add_argument("--owner", required=True, metavar="NAME", help="such as ada@example.org")
    new.add_argument("--until", metavar="DATE", help=f"{_UNTIL}; {_DATE}")
    new.add_argument("--out", type=Path, metavar="FILE", help="where the private half goes")
    new.add_argument("--from", dest="existing", metavar="KEY", help=f"register this one: {KEY}")
    new.add_argument("--development", action="store_true", help="for trials: production refuses it")
    add_command(actions, "list", "the registered keys, and which of them count", _list_keys)
    revoke = add_command(
        actions, "revoke", "let a key count no longer, from an entry of the ledger on", _revoke_key
    )
    revoke.add_argument("id", metavar="ID", help="at least 12 digits, as in `pedigree keys list`")
    revoke.add_argument("--reason", required=True, metavar="TEXT", help="why not")
    revoke.add_argument(
        "--from-entry",
        type=int,
        metavar="N",
        help="the ledger's first entry that counts no longer; default: what comes after now",
    )
    show = add_command(actions, "show", "the public keys of a role, as PEM", _show_key)
    show.add_argument("role", choices=(*ROLES, "development"), help="whose")


def _open(options: argparse.Namespace) -> "tuple[Project, EvidenceStore]":
    from pedigree.evidence.store import open_store

    project = open_project(options)
    return project, open_store(project, project.policy(), write=True)


def _new_key(options: argparse.Namespace) -> int:
    from pedigree.evidence.signers import make_key, open_signer
    from pedigree.evidence.signing import key_id
    from pedigree.evidence.trust import parse_time, register_key, require_owner

    project, now = open_project(options), datetime.now(UTC)
    require_owner(options.owner)
    until = parse_time(options.until) if options.until else None
    if options.existing:
        signer = open_signer(options.existing, project.variables)
        where = options.existing
    else:
        path = options.out or project.keys / f"{options.role}-{options.owner}.pem"
        signer, where = make_key(path), f"file:{path}"
    public = signer.public_key()
    register_key(
        project.trust,
        public,
        options.owner,
        (options.role,),
        now,
        valid_until=until,
        development=options.development,
    )
    if options.json:
        print_json(
            {
                "id": key_id(public),
                "role": options.role,
                "owner": options.owner,
                "private": where,
                "trust": str(project.trust),
            }
        )
        return 0
    print(
        f"{key_id(public)}  {options.role}  {options.owner}\n"
        f"  private half: {where} (keep it to yourself)\n"
        f"  public half:  {project.trust} (commit it: it counts from now on)"
    )
    return 0


def _list_keys(options: argparse.Namespace) -> int:
    from pedigree.evidence.signing import key_id, load_public_key
    from pedigree.evidence.trust import list_keys
    from pedigree.rendering import render_table

    project = open_project(options)
    keys = list_keys(project.trust)
    accepted = project.policy().keys.accept_development_keys
    development = load_public_key(project.keys)
    if options.json:
        print_json(
            {
                "keys": [one.model_dump(mode="json") for one in keys],
                "development": key_id(development) if development else None,
                "development_accepted": accepted,
            }
        )
        return 0
    rows = [["ID", "OWNER", "ROLES", "FROM", "UNTIL", "STATE"]]
    for one in keys:
        state = f"revoked: {one.revoked_because}" if one.revoked_on else "counts"
        if one.development:
            state += " (development key)" if accepted else " not: the policy takes no such keys"
        until = one.valid_until.date().isoformat() if one.valid_until else "open"
        roles = ", ".join(one.roles)
        rows.append([one.id[:12], one.owner, roles, f"{one.valid_from.date()}", until, state])
    if development is not None:
        state = "counts (development key)" if accepted else "not: the policy takes no such keys"
        rows.append([key_id(development)[:12], "development", "all but reviewer", "", "", state])
    print(render_table(rows))
    return 0


def _revoke_key(options: argparse.Namespace) -> int:
    from pedigree.evidence.store import open_store
    from pedigree.evidence.trust import revoke_key

    project = open_project(options)
    ledger = open_store(project, project.policy()).ledger
    head = ledger.read_signed_head() if ledger else None
    last = head.size if head else 0
    if options.from_entry is not None:
        last = min(last, max(options.from_entry - 1, 0))
    key = revoke_key(project.trust, options.id, options.reason, datetime.now(UTC), last)
    if options.json:
        print_json({**key.model_dump(mode="json"), "last_entry": last})
        return 0
    print(
        f"The key of {key.owner} counts for nothing after entry {last} of the ledger. "
        f"Commit {project.trust}."
    )
    return 0


def _show_key(options: argparse.Namespace) -> int:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from pedigree.errors import EvidenceMissing
    from pedigree.evidence.signing import load_public_key
    from pedigree.evidence.trust import list_keys

    project = open_project(options)
    if options.role == "development":
        public = load_public_key(project.keys)
        spki = PublicFormat.SubjectPublicKeyInfo
        found = [public.public_bytes(Encoding.PEM, spki).decode()] if public else []
    else:
        found = [
            one.public_key
            for one in list_keys(project.trust)
            if options.role in one.roles and one.revoked_on is None
        ]
    if not found and options.role == "development":
        raise EvidenceMissing(
            "There is no development key: the first run makes one, where the policy accepts it."
        )
    if not found:
        raise EvidenceMissing(
            f"There is no key of a {options.role}: make one with "
            f"`pedigree keys new {options.role}`."
        )
    if options.json:
        print_json({"role": options.role, "public_keys": found})
    else:
        print("".join(found), end="")
    return 0


def _approve(options: argparse.Namespace) -> int:
    from pedigree.evidence.approvals import approve
    from pedigree.evidence.policy import MERGE
    from pedigree.evidence.signers import open_signer
    from pedigree.evidence.trust import parse_time

    project, store = _open(options)
    kind = "adapter" if options.env == MERGE else "training"
    digest = store.find_subject(options.digest, kind)
    statement = approve(
        store,
        digest,
        options.env,
        options.tenant,
        options.reason,
        open_signer(options.key, project.variables),
        project.policy(),
        datetime.now(UTC),
        parse_time(options.until) if options.until else None,
    )
    where = f"{options.env} for {options.tenant}" if options.tenant else options.env
    return _conclude(options, store, statement, f"{digest} is approved for {where}")


def _promote(options: argparse.Namespace) -> int:
    from pedigree.registry import alias_of
    from pedigree.release import promote_model

    project, store = _open(options)
    digest = store.find_subject(options.digest, "training")
    promoted = promote_model(project, digest, options.env, datetime.now(UTC), options.tenant)
    alias = alias_of(promoted.environment, promoted.tenant)
    what = f"{digest} is in {alias} as {promoted.name}:{promoted.version}"
    return _conclude(options, store, promoted.statement, what)


def _revoke(options: argparse.Namespace) -> int:
    from pedigree.evidence.revocations import find_revocable
    from pedigree.evidence.signers import open_signer
    from pedigree.release import revoke_digest

    project, store = _open(options)
    digest, what = find_revocable(store, options.digest)
    signer = open_signer(options.key, project.variables) if options.key else None
    statement, aliases = revoke_digest(project, digest, options.reason, datetime.now(UTC), signer)
    gone = f"; removed from MLflow: {', '.join(aliases)}" if aliases else ""
    return _conclude(options, store, statement, f"The {what} {digest} is revoked{gone}")


def _waive(options: argparse.Namespace) -> int:
    from pedigree.errors import EvidenceMissing
    from pedigree.evidence.signers import open_signer
    from pedigree.evidence.trust import parse_time
    from pedigree.evidence.verdicts import find_verdict
    from pedigree.evidence.waivers import CONVERSION, waive

    project, store = _open(options)
    policy = project.policy()
    if options.check == CONVERSION:
        from pedigree.admission.transitions import find_decision

        digest = store.find_subject(options.digest, "admission")
        verdict, problem = find_decision(store, digest, policy)
    else:
        digest = store.find_subject(options.digest, "verdict")
        verdict, problem = find_verdict(store, digest, options.check, policy)
    if verdict is None:
        raise EvidenceMissing(
            f"There is nothing to waive: the verdict of {options.check} on {digest} {problem}. "
            "Run the check first; what was not looked at cannot be waived."
        )
    statement = waive(
        store,
        options.check,
        verdict,
        options.reason,
        parse_time(options.until),
        open_signer(options.key, project.variables),
        policy,
        datetime.now(UTC),
    )
    until = statement.predicate["expiresOn"]
    what = (
        f"{digest} may be converted until {until}"
        if options.check == CONVERSION
        else f"{options.check} on {digest} may pass until {until}"
    )
    return _conclude(options, store, statement, what)


def _conclude(
    options: argparse.Namespace, store: "EvidenceStore", statement: "Statement", what: str
) -> int:
    by = store.owner(statement)
    if options.json:
        print_json({"statement": statement.digest, "by": by, **statement.content})
        return 0
    print(f"{what}, by {by} ({statement.digest}).")
    if store.trust is not None and store.trust.is_development(statement.signer):
        print("  signed with a development key: a production policy would not accept it")
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from pedigree.evidence.project_ledger import verify_project_ledger
    from pedigree.evidence.store import adopt_statements, open_store

    project, adopted = open_project(options), list[str]()
    if options.action == "adopt":
        adopted = adopt_statements(open_store(project, project.policy(), write=True))
    keep = options.keep if options.action == "checkpoint" else None
    seen = verify_project_ledger(project, datetime.now(UTC), options.witness, keep)
    if options.json:
        print_json({**dataclasses.asdict(seen), "adopted": adopted})
    elif options.action == "checkpoint":
        print(seen)
    else:
        print(f"The ledger holds: {seen.size} statements, the newest entry sha256:{seen.entry}.")
        print("\n".join(f"  listed {name}" for name in adopted), end="\n" if adopted else "")
    return 0
