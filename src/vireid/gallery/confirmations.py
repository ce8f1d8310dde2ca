"""Two people, not one program, decide whether a candidate is the person asked for.

candidate -> confirmed once -> confirmed, by two distinct users; rejected from either of the first two. Confirmed and
rejected are final. (EU AI Act, Article 14(5): no action on a match without separate verification by two persons.)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

from vireid.errors import InputError, MissingError
from vireid.gallery.audit import AuditLog
from vireid.gallery.database import Database, lock_writers
from vireid.gallery.items import keys_of
from vireid.gallery.schema import ConfirmationRow, TrackRow
from vireid.gallery.types import Confirmation, State, Use, check_use, from_milliseconds, to_milliseconds, utc_now

# built once: building a statement takes longer than running it
_STATES = select(ConfirmationRow.track, ConfirmationRow.state).where(
    ConfirmationRow.case == bindparam("case"), ConfirmationRow.query == bindparam("query")
)


class Confirmations:
    """The candidates of one gallery that people verify; `strict` says whether it asks for a purpose and a case."""

    def __init__(self, database: Database, audit: AuditLog, strict: Callable[[], bool]) -> None:
        self._database, self._audit, self._strict = database, audit, strict

    def propose(self, query: str, track: str, use: Use) -> Confirmation:
        """Put a track forward as showing the person of a query, in the case of `use`; once is enough.

        Args:
            query: fingerprint of the query, `SearchResult.query`.
            track: id of the candidate's track.
            use: who and in which case.

        Raises:
            InputError: when the use says too little.
            MissingError: when the track, or the item that asked, is not stored.
        """
        check_use(use, self._strict())
        with self._database.write() as session:
            lock_writers(session)
            if session.get(TrackRow, track) is None:
                raise MissingError(f"there is no track {track!r} in this gallery: it may have been deleted")
            kind, _, asked = query.partition(":")
            if kind == "item" and not keys_of(session, [asked]):  # the id may be another picture's one day
                raise MissingError(f"there is no item {asked!r} in this gallery: search again")
            same = (ConfirmationRow.case == use.case, ConfirmationRow.query == query, ConfirmationRow.track == track)
            row = session.scalars(select(ConfirmationRow).where(*same)).first()
            if row is not None:
                return _confirmation(row)
            row = ConfirmationRow(
                id=secrets.token_hex(8),
                case=use.case,
                query=query,
                track=track,
                state=State.CANDIDATE.value,
                proposed_by=use.user,
                verified_by=[],
                changed=to_milliseconds(utc_now()),
            )
            session.add(row)
            result = _confirmation(row)
            self._log("propose", use, result)
        return result

    def confirm(self, confirmation_id: str, use: Use) -> Confirmation:
        """Verify a candidate; the second verification must come from another user.

        Raises:
            InputError: when this user has verified it already, it is decided, it belongs to another case, or the use
                says too little.
        """
        check_use(use, self._strict())
        with self._database.write() as session:
            row = _undecided(session, confirmation_id, use)
            if use.user in row.verified_by:
                raise InputError(f"{use.user} has verified this candidate already: a second person must confirm it")
            row.state = (State.CONFIRMED if row.verified_by else State.CONFIRMED_ONCE).value
            row.verified_by = [*row.verified_by, use.user]
            row.changed = to_milliseconds(utc_now())
            result = _confirmation(row)
            self._log("confirm", use, result)
        return result

    def reject(self, confirmation_id: str, use: Use) -> Confirmation:
        """Decide that a candidate shows somebody else.

        Raises:
            InputError: when it is decided already, belongs to another case, or the use says too little.
        """
        check_use(use, self._strict())
        with self._database.write() as session:
            row = _undecided(session, confirmation_id, use)
            row.state, row.rejected_by = State.REJECTED.value, use.user
            row.changed = to_milliseconds(utc_now())
            result = _confirmation(row)
            self._log("reject", use, result)
        return result

    def get(self, confirmation_id: str) -> Confirmation:
        """Return one.

        Raises:
            MissingError: when there is none of this id.
        """
        with self._database.read() as records:
            row = records.execute(select(ConfirmationRow).where(ConfirmationRow.id == confirmation_id)).first()
        if row is None:
            raise _missing(confirmation_id)
        return _confirmation(row)

    def list(
        self, case: str | None = None, track: str | None = None, state: State | str | None = None
    ) -> list[Confirmation]:
        """Return those that meet every given condition, oldest change first."""
        statement = select(ConfirmationRow).order_by(ConfirmationRow.changed, ConfirmationRow.id)
        if case is not None:
            statement = statement.where(ConfirmationRow.case == case)
        if track is not None:
            statement = statement.where(ConfirmationRow.track == track)
        if state is not None:
            statement = statement.where(ConfirmationRow.state == State(state).value)
        with self._database.read() as records:
            return [_confirmation(row) for row in records.execute(statement)]

    def _log(self, action: str, use: Use, result: Confirmation) -> None:
        details = {"confirmation": result.id, "track": result.track, "state": result.state.value}
        self._audit.append(action, use, query=result.query, verified_by=list(result.verified_by), details=details)


def states(records: Connection, case: str, query: str) -> dict[str, State]:
    """Return how far tracks are verified as the answer to a query in a case; absent: not put forward."""
    return {row.track: State(row.state) for row in records.execute(_STATES, {"case": case, "query": query})}


def _undecided(session: Session, confirmation_id: str, use: Use) -> ConfirmationRow:
    lock_writers(session)
    row = session.get(ConfirmationRow, confirmation_id)
    if row is None:
        raise _missing(confirmation_id)
    if row.case != use.case:
        raise InputError(f"this candidate was put forward in another case than {use.case!r}: name its own case")
    if row.state in (State.CONFIRMED.value, State.REJECTED.value):
        raise InputError(f"this candidate was {row.state} already: that decision is final")
    return row


def _missing(confirmation_id: str) -> MissingError:
    return MissingError(f"there is no confirmation {confirmation_id!r}: propose the candidate first")


def _confirmation(row: Any) -> Confirmation:
    return Confirmation(
        id=row.id,
        case=row.case,
        query=row.query,
        track=row.track,
        state=State(row.state),
        proposed_by=row.proposed_by,
        verified_by=tuple(row.verified_by),
        rejected_by=row.rejected_by,
        changed=from_milliseconds(row.changed),
    )
