"""Every exception that this package raises on purpose.

```text
PipelitError
├── ConfigurationError            a setting is missing or unusable; names the setting
│   └── EncryptionKeysUnavailable  the function of encryption_keys failed, or returned no keys
├── StorageError                  the database can't answer, or isn't migrated
│   └── LedgerUnavailable         attempts can't be counted; .peer, .verifier
├── UnsealError                   a value can't be decrypted; the reason is withheld on purpose
├── AuditTampered                 the audit trail differs from its seals
├── PayloadError                  a value can't be sent as a payload, or bytes aren't one
├── AccountError                  accounts and permissions
│   ├── InvalidUsername           also a ValueError
│   ├── UserExists
│   ├── UserNotFound              also a LookupError
│   ├── UserInactive
│   ├── ApiKeyNotFound            also a LookupError
│   ├── SecondFactorError         a person's second factor is on already, or isn't
│   ├── NotLocalAgent             the account is a person or a peer, so code can't act as it
│   ├── LastOperator              no other operator would be left
│   ├── NotPermitted
│   │   ├── ApprovalClosed        a question was answered or has expired: ask again
│   │   └── ApprovalNotFound      also a LookupError
│   └── QuotaExceeded             .limit
├── AuthenticationError           a Bearer token isn't accepted; one message for every reason
├── CredentialError               .credential
│   ├── CodeUnavailable           .retry_after (seconds)
│   ├── CredentialExists          there is one of the name, and it shouldn't be replaced
│   ├── CredentialNotFound        also a LookupError
│   │   └── NoPersonalCredential  also a LookupError; a person has no own one; .person
│   ├── CredentialNotAllowed
│   ├── NobodyAuthenticated       no active person acts, so no own credential opens; .person
│   ├── CredentialScopeError      a secret was revealed or read outside a running node or tool
│   └── SecretLeakError           a secret is in a value that would be stored or sent; .path
├── VerificationError             .peer, .verifier
│   ├── CodeRejected              the code is wrong or spent, or the account is unknown
│   │   └── MalformedCode         the input can't be a code or a username; never counted
│   ├── RateLimited               .retry_after (seconds)
│   ├── PeerLocked                .retry_after (seconds)
│   └── ProofRejected
└── SpawnError                    .results
    ├── DepthExceeded             .max_depth
    └── RequestRefused            a child refuses the caller or the request
        └── RequestStale          it was used before, or is too old: send the task again
```

A failed verification raises an exception; it never returns ``False``. Attributes carry the
evidence, so callers needn't parse messages. No message contains a code, a secret or a key.

There are six warnings:

- ``UnguardedRevealWarning``: a secret is revealed where nothing searches the node's output.
- ``ShortSecretWarning``: a secret is too short to be searched for.
- ``CommonSecretWarning``: a secret is an ordinary word that may occur in any text.
- ``UnknownAccountWarning``: a credential's ``allow`` names no account.
- ``UnusedCredentialWarning``: a middleware's credential is for a model that nobody took.
- ``LedgerWarning``: the ledger's server may lose its counters.
- ``WritableFileWarning``: other accounts can write to the file that declares accounts.
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
    "CodeUnavailable",
    "CommonSecretWarning",
    "ConfigurationError",
    "CredentialError",
    "CredentialExists",
    "CredentialNotAllowed",
    "CredentialNotFound",
    "CredentialScopeError",
    "DepthExceeded",
    "EncryptionKeysUnavailable",
    "InvalidUsername",
    "LastOperator",
    "LedgerUnavailable",
    "LedgerWarning",
    "MalformedCode",
    "NoPersonalCredential",
    "NobodyAuthenticated",
    "NotLocalAgent",
    "NotPermitted",
    "PayloadError",
    "PeerLocked",
    "PipelitError",
    "ProofRejected",
    "QuotaExceeded",
    "RateLimited",
    "RequestRefused",
    "RequestStale",
    "SecondFactorError",
    "SecretLeakError",
    "ShortSecretWarning",
    "SpawnError",
    "StorageError",
    "UnguardedRevealWarning",
    "UnknownAccountWarning",
    "UnsealError",
    "UnusedCredentialWarning",
    "UserExists",
    "UserInactive",
    "UserNotFound",
    "VerificationError",
    "WritableFileWarning",
]


class PipelitError(Exception):
    """The base of all exceptions that this package raises on purpose."""

    def __reduce__(self) -> tuple[Callable[..., PipelitError], tuple[Any, ...]]:
        # The default calls the class with the message only, and some classes need more arguments.
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

    ``__cause__`` has the type and the masked message of the function's exception. It has no
    traceback, because frames may hold keys.
    """


class StorageError(PipelitError):
    """The database can't be reached, isn't migrated, or refused a statement."""


class LedgerUnavailable(StorageError):
    """Attempts can't be counted, so no code is accepted.

    This says nothing about the code, so it isn't a ``VerificationError``.

    Attributes:
        peer: The account to be verified; empty if there was none.
        verifier: The account that was verifying it.
    """

    def __init__(self, message: str, *, peer: str = "", verifier: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.verifier = verifier


class UnsealError(PipelitError):
    """A value can't be decrypted. The reason is withheld, because it would be an oracle."""

    def __init__(self, message: str = "", *, what: str = "the value") -> None:
        super().__init__(
            message
            or f"{what} can't be decrypted: it was encrypted with another key or for another "
            "purpose, or it was changed. Check FIELD_ENCRYPTION_KEY: is one set in the "
            "environment, before the one in .env? See: pipelit-agents check"
        )


class AuditTampered(PipelitError):
    """The audit trail differs from its seals."""


class PayloadError(PipelitError):
    """A value can't be sent as a payload, or received bytes aren't a valid payload."""


class AccountError(PipelitError):
    """The base of errors about accounts.

    Attributes:
        username: The account concerned.
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
    """The account or its owner was deactivated."""


class ApiKeyNotFound(AccountError, LookupError):
    """No API key has this id."""


class SecondFactorError(AccountError):
    """A person's second factor isn't in the state that the operation needs."""


class NotLocalAgent(AccountError):
    """Code can't act as this account: it can act only as an agent user of this database."""


class LastOperator(AccountError):
    """The last active operator can't be made a member, and can't be deactivated."""


class NotPermitted(AccountError):
    """The account may not do this."""


class ApprovalClosed(NotPermitted):
    """The question was answered already, or it has expired."""


class ApprovalNotFound(NotPermitted, LookupError):
    """There is no such question, or its record wasn't made with one of the keys."""


class QuotaExceeded(AccountError):
    """The root owner has as many active agents as the policy allows.

    Attributes:
        limit: The number of agents allowed.
    """

    def __init__(self, message: str, *, username: str = "", limit: int = 0) -> None:
        super().__init__(message, username=username)
        self.limit = limit


class AuthenticationError(PipelitError):
    """A Bearer token is not accepted.

    The error is the same for malformed, unknown, expired and revoked tokens.
    """

    def __init__(self, message: str = "the API key is not valid") -> None:
        super().__init__(message)


class CredentialError(PipelitError):
    """The base of errors about credentials.

    Attributes:
        credential: The credential's name.
    """

    def __init__(self, message: str, *, credential: str = "") -> None:
        super().__init__(message)
        self.credential = credential


class CodeUnavailable(CredentialError):
    """The next code of another service's authenticator that nobody has begins too late to wait.

    Attributes:
        retry_after: Seconds until it begins.
    """

    def __init__(self, message: str, *, credential: str = "", retry_after: float) -> None:
        super().__init__(message, credential=credential)
        self.retry_after = retry_after


class CredentialNotFound(CredentialError, LookupError):
    """No credential has that name, or it has no such field."""


class NoPersonalCredential(CredentialNotFound):
    """A person has no own credential of that name. Another person's is never opened instead.

    Attributes:
        person: The person.
    """

    def __init__(self, message: str, *, credential: str = "", person: str = "") -> None:
        super().__init__(message, credential=credential)
        self.person = person


class NobodyAuthenticated(CredentialError):
    """The code acts for no active person, so it isn't known whose credential to open.

    Attributes:
        person: The name for which it acts: of a block that has ended, of a deactivated person, or
            of an account that isn't a person. Empty if there is none.
    """

    def __init__(self, message: str, *, credential: str = "", person: str = "") -> None:
        super().__init__(message, credential=credential)
        self.person = person


class CredentialExists(CredentialError):
    """There is a credential of this name already, and it shouldn't be replaced."""


class CredentialNotAllowed(CredentialError):
    """The credential is for named accounts, or the running task is limited to other credentials."""


class CredentialScopeError(CredentialError):
    """A secret was requested or read outside the running node or tool that may use it."""


class SecretLeakError(CredentialError):
    """A revealed secret is in a value that would be stored or sent.

    Attributes:
        path: The path within the value, for example ``messages[0].content``.
    """

    def __init__(self, message: str, *, credential: str = "", path: str = "") -> None:
        super().__init__(message, credential=credential)
        self.path = path


class VerificationError(PipelitError):
    """The verification of a peer failed.

    Attributes:
        peer: The account to be verified.
        verifier: The account that was verifying it.
    """

    def __init__(self, message: str, *, peer: str = "", verifier: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.verifier = verifier


class CodeRejected(VerificationError):
    """The code is not accepted: it is wrong or spent, or the account doesn't exist.

    A verifier accepts one code of a peer in each time step of 30 seconds, so another code of the
    same time step isn't accepted either.
    """

    def __init__(
        self,
        message: str = "the code was not accepted; wait 30 seconds, and ask the peer for a new one",
        *,
        peer: str = "",
        verifier: str = "",
    ) -> None:
        super().__init__(message, peer=peer, verifier=verifier)


class MalformedCode(CodeRejected):
    """The input can't be a code or a username; it doesn't count as an attempt."""


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
    """Short codes of this peer are not evaluated in this lane for now; other lanes are open.

    Attributes:
        retry_after: Seconds to wait. An operator can end the lock earlier.
    """

    def __init__(
        self, message: str, *, peer: str = "", verifier: str = "", retry_after: float
    ) -> None:
        super().__init__(message, peer=peer, verifier=verifier)
        self.retry_after = retry_after


class ProofRejected(VerificationError):
    """The proof doesn't show that this peer gave this answer to this request now."""

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
    """A spawn did not end with a verified answer from every child.

    Attributes:
        results: One result for each task, in task order. It contains verified output only.
    """

    def __init__(self, message: str, *, results: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.results: list[Any] = list(results)


class DepthExceeded(SpawnError):
    """Spawns are nested deeper than allowed.

    Attributes:
        max_depth: The maximum depth.
    """

    def __init__(self, message: str, *, max_depth: int) -> None:
        super().__init__(message)
        self.max_depth = max_depth


class RequestRefused(SpawnError):
    """A child refuses a request: the caller isn't on its list, or the request isn't proven."""


class RequestStale(RequestRefused):
    """A child refuses a request that it worked on before, or that is too old.

    An engine that lost a worker delivers its runs again, and one that is overloaded delivers them
    late. A parent may send the task again, as a new request.
    """


class UnguardedRevealWarning(UserWarning):
    """A secret is revealed in a node or tool that isn't decorated with ``guard`` or ``inject``."""


class ShortSecretWarning(UserWarning):
    """A secret is too short to be searched for in a node's output."""


class CommonSecretWarning(UserWarning):
    """A secret is an ordinary word or number that may occur in any text."""


class UnknownAccountWarning(UserWarning):
    """A name in a credential's ``allow`` isn't an account, so nobody opens it by that name."""


class UnusedCredentialWarning(UserWarning):
    """A ``CredentialMiddleware`` has a model that nobody took, and the agent calls another."""


class LedgerWarning(UserWarning):
    """The ledger's server may lose counted failures; the message names the setting."""


class WritableFileWarning(UserWarning):
    """Other accounts of the machine can write to a file that declares accounts and rights."""
