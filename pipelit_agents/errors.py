"""Every exception that this package raises on purpose.

```text
PipelitError
├── ConfigurationError            a setting is missing or unusable; names the setting
│   └── EncryptionKeysUnavailable  the function of encryption_keys failed, or returned no keys
├── StorageError                  the database can't answer, or isn't migrated
│   └── LedgerUnavailable         attempts can't be counted; .peer, .verifier
├── UnsealError                   a sealed value doesn't open; says no more, on purpose
├── AuditTampered                 the audit trail isn't as it was sealed
├── PayloadError                  a value can't travel as a payload, or bytes aren't one
├── AccountError                  accounts and who may do what
│   ├── InvalidUsername           also a ValueError
│   ├── UserExists
│   ├── UserNotFound              also a LookupError
│   ├── UserInactive
│   ├── ApiKeyNotFound            also a LookupError
│   ├── SecondFactorError         a person's second factor is on already, or isn't
│   ├── NotLocalAgent             the name is a person or a peer: it can't be acted as
│   ├── NotPermitted
│   │   ├── ApprovalClosed        a question was answered, or has expired: ask again
│   │   └── ApprovalNotFound      also a LookupError
│   └── QuotaExceeded             .limit
├── AuthenticationError           a Bearer token isn't accepted; one message for every reason
├── CredentialError               .credential
│   ├── CredentialNotFound        also a LookupError
│   ├── CredentialNotAllowed
│   ├── CredentialScopeError      revealed, or read, outside a running node or tool
│   └── SecretLeakError           a secret stands where it would be stored; .path
├── VerificationError             .peer, .verifier
│   ├── CodeRejected              wrong, spent or unknown: one exception for all
│   │   └── MalformedCode         what was typed can't be a code or a name; never counted
│   ├── RateLimited               .retry_after (seconds)
│   ├── PeerLocked                .retry_after (seconds)
│   └── ProofRejected
└── SpawnError                    .results
    ├── DepthExceeded             .max_depth
    └── RequestRefused            a child won't work for this caller, or this request
```

A check that fails raises; it never returns ``False``. Attributes carry the evidence, so that
callers needn't parse messages. No message holds a code, a secret or a key.

Five are warnings: ``UnguardedRevealWarning``, a secret is revealed where nothing searches what
the node returns; ``ShortSecretWarning``, a secret is too short to be searched for;
``CommonSecretWarning``, a secret is an ordinary word, which honest text may have;
``UnusedCredentialWarning``, a middleware's credential is for a model that isn't called;
``LedgerWarning``, the ledger's server may forget what it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "AccountError",
    "ApiKeyNotFound",
    "ApprovalClosed",
    "ApprovalNotFound",
    "AuditTampered",
    "AuthenticationError",
    "CodeRejected",
    "CommonSecretWarning",
    "ConfigurationError",
    "CredentialError",
    "CredentialNotAllowed",
    "CredentialNotFound",
    "CredentialScopeError",
    "DepthExceeded",
    "EncryptionKeysUnavailable",
    "InvalidUsername",
    "LedgerUnavailable",
    "LedgerWarning",
    "MalformedCode",
    "NotLocalAgent",
    "NotPermitted",
    "PayloadError",
    "PeerLocked",
    "PipelitError",
    "ProofRejected",
    "QuotaExceeded",
    "RateLimited",
    "RequestRefused",
    "SecondFactorError",
    "SecretLeakError",
    "ShortSecretWarning",
    "SpawnError",
    "StorageError",
    "UnguardedRevealWarning",
    "UnsealError",
    "UnusedCredentialWarning",
    "UserExists",
    "UserInactive",
    "UserNotFound",
    "VerificationError",
]


class PipelitError(Exception):
    """The root of the tree: catches everything that this package raises on purpose."""

    def __reduce__(self) -> tuple[Callable[..., PipelitError], tuple[Any, ...]]:
        # The default calls the class with its message alone, and some want more than that.
        return _rebuilt, (type(self), self.args, vars(self))


def _rebuilt(
    kind: type[PipelitError], args: tuple[Any, ...], evidence: dict[str, Any]
) -> PipelitError:
    error = kind.__new__(kind, *args)
    vars(error).update(evidence)
    return error


class ConfigurationError(PipelitError):
    """A setting is missing or unusable; the message names it and the fix."""


class EncryptionKeysUnavailable(ConfigurationError):
    """The function that ``encryption_keys`` names failed, or returned no keys.

    Its cause, ``__cause__``, tells the type and the masked text of what the function raised, and
    has none of its frames: they may hold keys.
    """


class StorageError(PipelitError):
    """The database can't be reached, isn't migrated, or refused a statement."""


class LedgerUnavailable(StorageError):
    """Attempts can't be counted, so no code is accepted.

    It says nothing about the code, so it isn't a ``VerificationError``.

    Attributes:
        peer: The account that was to be verified; empty where no account was.
        verifier: The account that was to verify it.
    """

    def __init__(self, message: str, *, peer: str = "", verifier: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.verifier = verifier


class UnsealError(PipelitError):
    """A sealed value doesn't open here. Why is not said: a reason would be an oracle."""

    def __init__(
        self,
        message: str = "the sealed value does not open: it was made under another key, "
        "for another place, or was changed (check FIELD_ENCRYPTION_KEY)",
    ) -> None:
        super().__init__(message)


class AuditTampered(PipelitError):
    """The audit trail isn't as it was sealed."""


class PayloadError(PipelitError):
    """A value can't be carried as a payload, or received bytes are not one."""


class AccountError(PipelitError):
    """The base of what concerns accounts.

    Attributes:
        username: The account in question.
    """

    def __init__(self, message: str, *, username: str = "") -> None:
        super().__init__(message)
        self.username = username


class InvalidUsername(AccountError, ValueError):
    """A username does not match ``^[a-z0-9][a-z0-9_.-]{0,148}$``."""


class UserExists(AccountError):
    """The username is taken; accounts are never overwritten."""


class UserNotFound(AccountError, LookupError):
    """No account has that name."""


class UserInactive(AccountError):
    """The account was deactivated, or its owner was."""


class ApiKeyNotFound(AccountError, LookupError):
    """No API key has this id."""


class SecondFactorError(AccountError):
    """A person's second factor isn't in the state that was asked for."""


class NotLocalAgent(AccountError):
    """The account can't be acted as: only agent users of this database can."""


class NotPermitted(AccountError):
    """The account may not do this."""


class ApprovalClosed(NotPermitted):
    """The question can't be answered any more: it was answered, or has expired."""


class ApprovalNotFound(NotPermitted, LookupError):
    """There is no such question, or its record wasn't made under one of the keys."""


class QuotaExceeded(AccountError):
    """The root owner already has as many living agents as the policy allows.

    Attributes:
        limit: The number allowed.
    """

    def __init__(self, message: str, *, username: str = "", limit: int = 0) -> None:
        super().__init__(message, username=username)
        self.limit = limit


class AuthenticationError(PipelitError):
    """A Bearer token is not accepted; malformed, unknown, expired and revoked look alike."""

    def __init__(self, message: str = "the API key is not valid") -> None:
        super().__init__(message)


class CredentialError(PipelitError):
    """The base of what concerns credentials.

    Attributes:
        credential: The credential's name.
    """

    def __init__(self, message: str, *, credential: str = "") -> None:
        super().__init__(message)
        self.credential = credential


class CredentialNotFound(CredentialError, LookupError):
    """No credential, or no field of it, has that name."""


class CredentialNotAllowed(CredentialError):
    """The credential is kept for named accounts, and this is not one of them."""


class CredentialScopeError(CredentialError):
    """A secret was asked for, or read, outside the running node or tool that may have it."""


class SecretLeakError(CredentialError):
    """A revealed secret stands in a value that would be stored or sent.

    Attributes:
        path: Where in the value, for example ``messages[0].content``.
    """

    def __init__(self, message: str, *, credential: str = "", path: str = "") -> None:
        super().__init__(message, credential=credential)
        self.path = path


class VerificationError(PipelitError):
    """A check of a peer did not succeed.

    Attributes:
        peer: Who was to be verified.
        verifier: Who verified.
    """

    def __init__(self, message: str, *, peer: str = "", verifier: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.verifier = verifier


class CodeRejected(VerificationError):
    """The code is not accepted: wrong, spent, or for an account that isn't there."""

    def __init__(
        self,
        message: str = "the code was not accepted; ask the peer for a fresh one",
        *,
        peer: str = "",
        verifier: str = "",
    ) -> None:
        super().__init__(message, peer=peer, verifier=verifier)


class MalformedCode(CodeRejected):
    """What was given can't be a code, or can't be a username; it counts as no attempt."""


class RateLimited(VerificationError):
    """Too many failures in the last minute; nothing was evaluated.

    Attributes:
        retry_after: Seconds to wait.
    """

    def __init__(
        self, message: str, *, peer: str = "", verifier: str = "", retry_after: float
    ) -> None:
        super().__init__(message, peer=peer, verifier=verifier)
        self.retry_after = retry_after


class PeerLocked(VerificationError):
    """Short codes of this peer are not evaluated now in this lane; other lanes go on.

    Attributes:
        retry_after: Seconds to wait. An operator can end the lock before.
    """

    def __init__(
        self, message: str, *, peer: str = "", verifier: str = "", retry_after: float
    ) -> None:
        super().__init__(message, peer=peer, verifier=verifier)
        self.retry_after = retry_after


class ProofRejected(VerificationError):
    """The proof does not show that this peer gave this answer to this request now."""

    def __init__(
        self,
        message: str = "the proof was not accepted: it doesn't show that this peer gave "
        "this answer to this request",
        *,
        peer: str = "",
        verifier: str = "",
    ) -> None:
        super().__init__(message, peer=peer, verifier=verifier)


class SpawnError(PipelitError):
    """A spawn did not end with a verified answer of every child.

    Attributes:
        results: What is known of each task, in task order; only verified output is in it.
    """

    def __init__(self, message: str, *, results: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.results = list(results)


class DepthExceeded(SpawnError):
    """Spawns are nested deeper than allowed.

    Attributes:
        max_depth: The depth allowed.
    """

    def __init__(self, message: str, *, max_depth: int) -> None:
        super().__init__(message)
        self.max_depth = max_depth


class RequestRefused(SpawnError):
    """A child refuses to work: the caller is not on its list, or the request isn't proven."""


class UnguardedRevealWarning(UserWarning):
    """A secret is revealed in a node or tool that isn't decorated with ``guard`` or ``inject``."""


class ShortSecretWarning(UserWarning):
    """A secret is too short to be searched for in what leaves a node."""


class CommonSecretWarning(UserWarning):
    """A secret is an ordinary word or number, which honest text may have."""


class UnusedCredentialWarning(UserWarning):
    """A ``CredentialMiddleware`` has a credential for its model, and the agent calls another."""


class LedgerWarning(UserWarning):
    """The ledger's server is set up in a way that may lose counted failures; it says how."""
