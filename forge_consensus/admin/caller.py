"""The caller: who asks for one operation, and whether they may; also later, while the answer takes long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forge_consensus.actors.runtime.permits import may_write_some
from forge_consensus.admin.admission import Admission, Credential, forbidden, unknown_caller
from forge_consensus.admin.operation import Call, Operation
from forge_consensus.security.access import Principal
from forge_consensus.security.permissions import Permission


class Caller:
    """Somebody who is known, with what they have shown.

    Args:
        admission: says who that is.
        shown: the token or the certificate.
        principal: who it is.
        address: where the request came from.

    """

    def __init__(self, admission: Admission, shown: Credential | None, principal: Principal, address: str) -> None:
        self.admission = admission
        self.shown = shown
        self.principal = principal
        self.address = address
        self.asked: list[tuple[Permission, tuple[str, ...] | None]] = []
        """The permissions that were looked for, with the keys that it is about."""
        self.by_rules = False
        """Whether only rules can allow what is asked for, which the body says."""

    @classmethod
    def of(
        cls,
        admission: Admission,
        operation: Operation,
        headers: Mapping[str, str],
        state: Mapping[str, Any],
        address: str,
    ) -> Caller | None:
        """Return who asks, None for an operation that strangers may ask for. Raises `ProblemError`."""
        if operation.needed == "nothing":
            return None
        shown = admission.credential(headers, state)
        return cls(admission, shown, admission.admit(shown, address), address)

    def check(self, operation: Operation, arguments: Mapping[str, Any], *, of_keys: bool) -> None:
        """Raise `ProblemError` if the caller may not do this; what rules allow in a body is judged by `check_call`.

        Args:
            operation: what is asked for.
            arguments: those in the path and the query.
            of_keys: whether the node's machine is the built-in one, whose keys rules are about.

        """
        keys = operation.keys(arguments) if of_keys and operation.keys is not None else None
        needed = operation.needed
        assert needed != "nothing", "strangers are no callers"
        self.by_rules = of_keys and operation.reach is not None and bool(self.principal.rules)
        if self.by_rules and not self.principal.may(needed or "admin"):
            return
        self.by_rules = False
        # What nobody has decided about is for administrators only until somebody does.
        self.need(needed or "admin", keys, operation)

    def check_call(self, operation: Operation, call: Call) -> None:
        """Raise `ProblemError` if the caller may not do what the body of a request says."""
        if operation.reach is None:
            return
        found = operation.reach(call)
        if found is None:
            self.need("admin", None, operation)
        elif self.by_rules:
            for reach in found:
                touches_none = reach.kind == "write" and reach.prefixes == ()
                if touches_none and may_write_some(self.principal):  # it makes the log grow all the same
                    continue
                self.need(reach.kind, None if touches_none else reach.prefixes, operation)

    def need(self, needed: Permission, keys: tuple[str, ...] | None, operation: Operation) -> None:
        """Raise `ProblemError` without a permission."""
        self.asked.append((needed, keys))
        self.admission.check(self.principal, needed, keys, operation.name, self.address)

    @property
    def may_still(self) -> bool:
        """Whether the caller is known as before, and may have what was asked for."""
        now = self.admission.principal(self.shown)
        return now is not None and now.name == self.principal.name and all(now.may(*asked) for asked in self.asked)

    def check_again(self) -> None:
        """Raise `ProblemError` if the caller may not have it any more."""
        if self.may_still:
            return
        if self.admission.principal(self.shown) is None:
            raise unknown_caller(self.shown)
        raise forbidden(self.principal, self.asked[-1][0])
