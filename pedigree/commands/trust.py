"""Keys, approvals, promotions, revocations, waivers, and the ledger that lists them."""

import argparse
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pedigree.commands.common import Commands, open_project, print_json

if TYPE_CHECKING:
    from pedigree.evidence.store import EvidenceStore, Statement
    from pedigree.project import Project

ROLES = ("builder", "checker", "reviewer", "releaser")


def add_commands(commands: Commands) -> None:
    """Add these commands to the command line."""
    _add_keys(commands)
    key_help = "file:PATH, env:NAME or ssh-agent:SHA256:…"

    approve = commands.add_parser(
        "approve", help="say that a model may go to an environment, or an adapter be merged"
    )
    approve.add_argument("digest", metavar="DIGEST")
    approve.add_argument("--env", required=True, metavar="ENV", help="or merge, for an adapter")
    approve.add_argument("--tenant", metavar="T", help="for this tenant alone")
    approve.add_argument("--key", required=True, help=f"the reviewer's key: {key_help}")
    approve.add_argument("--reason", required=True, metavar="TEXT")
    approve.add_argument("--until", metavar="DATE", help="from when on it counts no longer")
    approve.add_argument("--json", action="store_true")
    approve.set_defaults(command=_approve)

    promote = commands.add_parser("promote", help="give a model to an environment")
    promote.add_argument("digest", metavar="DIGEST")
    promote.add_argument("--env", required=True, metavar="ENV")
    promote.add_argument("--tenant", metavar="T")
    promote.add_argument("--json", action="store_true")
    promote.set_defaults(command=_promote)

    revoke = commands.add_parser("revoke", help="say that a digest must not be used any more")
    revoke.add_argument("digest", metavar="DIGEST")
    revoke.add_argument("--reason", required=True, metavar="TEXT")
    revoke.add_argument("--key", help=f"a reviewer's or releaser's key: {key_help}")
    revoke.add_argument("--json", action="store_true")
    revoke.set_defaults(command=_revoke)

    waive = commands.add_parser("waive", help="let a failed check pass for a time")
    waive.add_argument("check", metavar="CHECK", help="or conversion, for a quarantined checkpoint")
    waive.add_argument("digest", metavar="DIGEST")
    waive.add_argument("--until", required=True, metavar="DATE")
    waive.add_argument("--key", required=True, help=f"a reviewer's key: {key_help}")
    waive.add_argument("--reason", required=True, metavar="TEXT")
    waive.add_argument("--json", action="store_true")
    waive.set_defaults(command=_waive)

    ledger = commands.add_parser("ledger", help="the chain of all statements")
    ledger.add_argument("action", choices=["verify", "checkpoint", "adopt"])
    ledger.add_argument(
        "--witness", action="append", default=[], metavar="FILE", help="checkpoints; or git:PATH"
    )
    ledger.add_argument("--keep", type=Path, metavar="FILE", help="add the checkpoint to a file")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(command=_ledger)


def _add_keys(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="whose keys count for what")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a key and register its public half")
    new.add_argument("role", choices=ROLES)
    new.add_argument("--owner", required=True, metavar="NAME", help="such as ada@example.org")
    new.add_argument("--until", metavar="DATE", help="from when on it counts no longer")
    new.add_argument("--out", type=Path, metavar="FILE", help="where the private half goes")
    new.add_argument("--from", dest="existing", metavar="KEY", help="register this key instead")
    new.add_argument("--development", action="store_true", help="for trials: production refuses it")
    new.set_defaults(command=_new_key)
    listed = actions.add_parser("list")
    listed.add_argument("--json", action="store_true")
    listed.set_defaults(command=_list_keys)
    revoke = actions.add_parser("revoke")
    revoke.add_argument("id", metavar="ID", help="at least 12 digits")
    revoke.add_argument("--reason", required=True, metavar="TEXT")
    revoke.add_argument(
        "--from-entry",
        type=int,
        metavar="N",
        help="the ledger's first entry that counts no longer; default: what comes after now",
    )
    revoke.set_defaults(command=_revoke_key)
    show = actions.add_parser("show", help="the public keys of a role, as PEM")
    show.add_argument("role", choices=(*ROLES, "development"))
    show.set_defaults(command=_show_key)


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
    if not found:
        raise EvidenceMissing(
            f"There is no key of a {options.role}: make one with `pedigree keys new`."
        )
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
