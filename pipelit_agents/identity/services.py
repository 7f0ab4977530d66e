"""The services that all handles of one ``Pipelit`` share, each made once."""

from __future__ import annotations

from pipelit_agents._core import Core
from pipelit_agents.identity.bad_input import BadInput
from pipelit_agents.identity.code_verifier import CodeVerifier
from pipelit_agents.identity.proof_maker import ProofMaker
from pipelit_agents.identity.proof_verifier import ProofVerifier
from pipelit_agents.identity.totp_secrets import TotpSecrets

__all__ = ["Identity"]


class Identity:
    """What all handles of one ``Pipelit`` share.

    Args:
        core: The database, the keys, the ledger and the clock.

    Attributes:
        core: As above.
        secrets: Decrypts TOTP secrets.
        bad_input: Refuses bad input, and limits how much of it is recorded.
        codes: Verifies short codes.
        maker: Makes proofs.
        proofs: Verifies proofs.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.secrets: TotpSecrets = TotpSecrets(core)
        self.bad_input: BadInput = BadInput(core)
        self.codes: CodeVerifier = CodeVerifier(core, self.secrets, self.bad_input)
        self.maker: ProofMaker = ProofMaker(core)
        self.proofs: ProofVerifier = ProofVerifier(core, self.secrets)
