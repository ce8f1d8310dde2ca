"""API keys: who may do what. A secret is shown once; the records keep its scrypt hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from vireid.errors import InputError, MissingError
from vireid.gallery.audit import AuditLog
from vireid.gallery.database import Database
from vireid.gallery.schema import KeyRow
from vireid.gallery.types import Key, Role, Use, from_milliseconds, to_milliseconds, utc_now
from vireid.options import checked

PREFIX = "vireid"
_COST = {"n": 2**14, "r": 8, "p": 1}
_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class Claim:
    """A key that somebody's secret names.

    Attributes:
        key: the key.
        secret_hash: what the secret must still be compared with, None when this process has done so before.
    """

    key: Key
    secret_hash: str | None


class KeyRing:
    """The keys of one gallery. The audit log has a key's making and end before they are done."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._verified: dict[bytes, str] = {}

    def create(self, user: str, role: Role | str, *, use: Use | None = None) -> tuple[Key, str]:
        """Make a key and return it with its secret, which cannot be shown again.

        Args:
            user: the person who will hold it.
            role: what it allows.
            use: who makes it; default: whoever is logged in.

        Raises:
            InputError: for an unknown role, or a user without a name.
        """
        try:
            granted = Role(role)
        except ValueError:
            raise InputError(f"unknown role {role!r}: use {', '.join(Role)}") from None
        values = {"id": secrets.token_hex(6), "user": user, "role": granted, "created": utc_now()}
        key = checked(Key, values, "a key needs the person who holds it:")
        secret = f"{PREFIX}_{key.id}_{secrets.token_urlsafe(32)}"
        with self._database.write() as session:
            created = to_milliseconds(key.created)
            row = KeyRow(id=key.id, user=user, role=granted.value, secret_hash=_hash(secret), created=created)
            session.add(row)
            self._log("create key", use, key)
        return key, secret

    def verify(self, secret: str) -> Key | None:
        """Return the key of a secret, or None when there is none or it was revoked.

        The slow hash runs once per process and secret; after that a digest in memory stands for it. Whether the key
        still holds is read from the records every time.
        """
        claim = self.claim(secret)
        return claim.key if claim is not None and self.proves(secret, claim) else None

    def claim(self, secret: str) -> Claim | None:
        """Return the key that a secret names, which `proves` must confirm; None when there is none or it was revoked.

        This half of `verify` reads the records, the other one computes.
        """
        known = self._verified.get(_digest(secret))
        with self._database.read() as records:
            row = records.execute(select(KeyRow).where(KeyRow.id == (known or _id(secret)))).first()
        if row is None or row.revoked is not None:
            return None
        return Claim(_key(row), row.secret_hash if known is None else None)

    def proves(self, secret: str, claim: Claim) -> bool:
        """Whether a secret is that of the key it names."""
        if claim.secret_hash is None:
            return True
        if not _matches(secret, claim.secret_hash):
            return False
        self._verified[_digest(secret)] = claim.key.id
        return True

    def stands(self, key_id: str) -> bool:
        """Whether there is a key of this id that has not been revoked."""
        unrevoked = select(KeyRow.id).where(KeyRow.id == key_id, KeyRow.revoked.is_(None))
        with self._database.read() as records:
            return records.execute(unrevoked).first() is not None

    def list(self) -> list[Key]:
        """Return all keys, oldest first, revoked ones too."""
        with self._database.read() as records:
            return [_key(row) for row in records.execute(select(KeyRow).order_by(KeyRow.created, KeyRow.id))]

    def revoke(self, key_id: str, *, use: Use | None = None) -> Key:
        """End a key, at once and for good; `use` says who does.

        Raises:
            MissingError: when there is no such key.
        """
        with self._database.write() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise MissingError(f"there is no key {key_id!r}: see `vireid keys list`")
            row.revoked = row.revoked or to_milliseconds(utc_now())
            key = _key(row)
            self._log("revoke key", use, key)
        return key

    def _log(self, action: str, use: Use | None, key: Key) -> None:
        details = {"key": key.id, "user": key.user, "role": key.role.value}
        self._audit.append(action, use or Use(purpose="", case=""), details=details)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _id(secret: str) -> str:
    parts = secret.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == PREFIX else ""


def _hash(secret: str) -> str:
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(secret.encode(), salt=salt, maxmem=_MEMORY, **_COST)
    return f"scrypt${_COST['n']}${_COST['r']}${_COST['p']}${salt.hex()}${digest.hex()}"


def _matches(secret: str, stored: str) -> bool:
    _, n, r, p, salt, digest = stored.split("$")
    again = hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), n=int(n), r=int(r), p=int(p), maxmem=_MEMORY)
    return hmac.compare_digest(again, bytes.fromhex(digest))


def _key(row: Any) -> Key:
    return Key(
        id=row.id,
        user=row.user,
        role=Role(row.role),
        created=from_milliseconds(row.created),
        revoked=None if row.revoked is None else from_milliseconds(row.revoked),
    )
