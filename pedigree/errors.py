"""What can go wrong, as one shallow tree.

Every message is a sentence for the person who has to act: what, expected, found, next step.
`exit_code` is the command line's: 1 a check or verification failed, 2 the request was malformed
or could not be carried out, 3 evidence is missing.

    PedigreeError            2   bad input, an unreachable source, a locked repository, a full disk
    ├── VerificationFailed   1   bytes, digests or signatures are not what evidence says
    ├── GateClosed           1   a required verdict is missing, failed, stale or unsigned
    └── EvidenceMissing      3   nothing is known about what was asked for
"""


class PedigreeError(Exception):
    """Bad input, or a thing that could not be done; the message says what to do next."""

    exit_code = 2


class VerificationFailed(PedigreeError):
    """Bytes, a digest or a signature are not what the evidence says."""

    exit_code = 1


class GateClosed(PedigreeError):
    """A required verdict is missing, failed, stale or unsigned."""

    exit_code = 1


class EvidenceMissing(PedigreeError):
    """Nothing is known about what was asked for."""

    exit_code = 3
