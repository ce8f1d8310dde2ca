"""The web page: forms rendered on the server; a small script saves reloading and brings drop and arrow keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from vireid.errors import InputError, MissingError
from vireid.gallery import Candidate, Confirmation, Item, Role, State
from vireid.gallery import Query as GalleryQuery
from vireid.gallery.types import Name, Text
from vireid.serve.auth import COOKIE, Caller, Operator, Session, Viewer
from vireid.serve.guard import client_address
from vireid.serve.page.forms import DecisionForm, Known, PicturesForm, SearchForm
from vireid.serve.page.render import html, wants_fragment
from vireid.serve.routes_items import attachment, contact_sheet_of
from vireid.serve.routes_search import image
from vireid.serve.service import Service, Shared

router = APIRouter()
_PAGE = 60
_STRIP = 8


def current_session(request: Request) -> Session:
    """Return the session that the guard has found."""
    session: Session = request.state.session
    return session


def same_site(request: Request) -> None:
    """Refuse forms that another site sends, as far as the browser tells.

    Raises:
        HTTPException: 403.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "this form was sent by another site: open the page itself")


Signed = Annotated[Session, Depends(current_session)]
Line = Annotated[Text, Form()]
Secret = Annotated[str, Form(max_length=200, pattern=r"^[^\x00]*$")]


@router.get("/login")
async def login_page() -> Response:
    """Show the sign-in form."""
    return html("login.html", message="")


@router.post("/login", dependencies=[Depends(same_site)])
async def login(request: Request, service: Shared, key: Secret = "") -> Response:
    """Begin a session with an API key."""
    caller = await service.verify_from(client_address(request.scope), key.strip()) if key.strip() else None
    if caller is None:
        return html("login.html", 401, message="This key is unknown or was revoked.")
    await service.run(caller.gallery.audit.append, "sign in", caller.use())
    answer = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, service.sessions.open(key.strip()), httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/logout")
async def logout(request: Request, caller: Viewer, session: Signed, service: Shared, csrf: Line = "") -> Response:
    """End the session."""
    session.check(csrf)
    service.sessions.close(request.cookies[COOKIE])
    await service.run(caller.gallery.audit.append, "sign out", caller.use())
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/")
async def start(caller: Viewer, session: Signed, service: Shared, item: Known = None) -> Response:
    """Show the search form, with a stored picture chosen or none."""
    chosen = await service.run(caller.gallery.item, item) if item else None
    return await _search_page(service, caller, session, {"chosen": chosen})


@router.post("/pick")
async def pick(session: Signed, caller: Viewer, csrf: Line = "", purpose: Line = "", case: Line = "") -> Response:
    """Remember what has been filled in, and go to the stored pictures."""
    session.check(csrf)
    session.purpose, session.case = purpose, case
    return RedirectResponse("/pictures", 303)


@router.post("/search")
async def search(
    request: Request,
    form: Annotated[SearchForm, Form(media_type="multipart/form-data")],
    caller: Viewer,
    session: Signed,
    service: Shared,
) -> Response:
    """Answer the search form: the whole page, or only the results for the script."""
    session.check(form.csrf)
    session.purpose, session.case = form.purpose, form.case
    query, chosen = await _query(form, caller, service)
    result = await service.search(caller, query, form.options())
    looks = await service.run(_looks, caller, form.case, result.query, result.candidates)
    calibration = caller.gallery.calibration
    target = None if calibration is None else calibration.target_fpr
    answer = {"result": result, "form": form, "chosen": chosen, "target": target, **looks}
    if wants_fragment(request):
        return html("results.html", **_common(caller, session), **answer)
    return await _search_page(service, caller, session, answer)


async def _query(form: SearchForm, caller: Caller, service: Service) -> tuple[GalleryQuery, Item | None]:
    if form.upload is not None:
        return await service.picture_query(caller, await form.upload.read(), form.modality), None
    wanted = form.pick or form.item
    if wanted is None:
        raise InputError("drop a picture, or pick a stored one, to search with")
    query = await service.item_query(caller, wanted)
    return query, await service.run(caller.gallery.item, wanted)


def _looks(caller: Caller, case: str, query: str, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return what the results show beside the answer: strips of tracks, places of cameras, who has verified what."""
    gallery = caller.gallery
    tracks = [candidate.track.id for candidate in candidates]
    best = {candidate.item.id for candidate in candidates}
    entries = gallery.confirmations.list(case)
    return {
        "strips": {track: [item for item in _strip(caller, track) if item.id not in best] for track in tracks},
        "places": {camera.id: camera.place for camera in gallery.cameras.list()},
        "entries": {entry.track: entry for entry in entries if entry.query == query},
    }


def _strip(caller: Caller, track: str) -> list[Item]:
    """Return up to `_STRIP` pictures of a track, evenly spread over the passage; none when it has been erased."""
    try:
        items = [item for item in caller.gallery.track_items(track) if item.has_crop]
    except MissingError:
        return []
    return items[:: max(1, -(-len(items) // _STRIP))]


async def _search_page(service: Service, caller: Caller, session: Session, answer: dict[str, Any]) -> Response:
    facts: dict[str, Any] = {
        "cameras": await service.run(caller.gallery.cameras.list),
        "items": await service.run(caller.gallery.count),
        "rerankings": service.rerankings(caller),
        "result": None,
        "form": None,
    }
    return html("search.html", **_common(caller, session), **(facts | answer))


@router.get("/pictures")
async def pictures(
    request: Request, form: Annotated[PicturesForm, Query()], caller: Viewer, session: Signed, service: Shared
) -> Response:
    """Show stored pictures to pick one to search with."""
    page, following = await service.run(caller.gallery.page, form.where(), limit=_PAGE, after=form.after)
    cameras = await service.run(caller.gallery.cameras.list)
    more = "" if following is None else request.url.include_query_params(after=following).query
    return html("pictures.html", **_common(caller, session), page=page, cameras=cameras, form=form, more=more)


@router.get("/crop")
async def crop(id: Name, caller: Viewer, service: Shared) -> Response:
    """Return a stored picture."""
    return await image(id, caller, service)


@router.get("/verification")
async def verification(
    request: Request,
    caller: Viewer,
    session: Signed,
    service: Shared,
    case: Text = "",
    skip: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """Show a page of a case's candidates, or of those of all cases that wait, newest first."""
    entries = (await service.run(_under_verification, caller, case))[::-1][skip:]
    rows = await service.run(lambda: [row for entry in entries[:_PAGE] for row in _rows(caller, entry)])
    more = request.url.include_query_params(skip=skip + _PAGE).query if len(entries) > _PAGE else ""
    return html("verification.html", **_common(caller, session), rows=rows, case=case, more=more)


def _under_verification(caller: Caller, case: str) -> list[Confirmation]:
    """Return the candidates of a case, decided ones too; without a case those of all that wait for a decision."""
    entries = caller.gallery.confirmations.list(case or None)
    return entries if case else [entry for entry in entries if entry.state in (State.CANDIDATE, State.CONFIRMED_ONCE)]


def _rows(caller: Caller, entry: Confirmation) -> list[dict[str, Any]]:
    """Return the row of a candidate, none when its track has been erased meanwhile."""
    try:
        track, pictures = caller.gallery.track(entry.track), _strip(caller, entry.track)
    except MissingError:
        return []
    asked = entry.query.removeprefix("item:") if entry.query.startswith("item:") else None
    known = asked if asked and caller.gallery.known([asked]) else None
    return [{"confirmation": entry, "track": track, "pictures": pictures, "asked": known}]


@router.post("/verification")
async def decide(
    request: Request, form: Annotated[DecisionForm, Form()], caller: Operator, session: Signed, service: Shared
) -> Response:
    """Confirm or reject a candidate in the signed-in user's name."""
    session.check(form.csrf)
    session.purpose, session.case = form.purpose, form.case
    entry = await service.run(_decide, caller, form)
    if not wants_fragment(request):
        return RedirectResponse("/verification", 303)
    shown: dict[str, Any] = form.model_dump(include={"place", "query", "track", "purpose", "case"})
    return html("state.html", **_common(caller, session), state=entry.state, entry=entry, **shown)


def _decide(caller: Caller, form: DecisionForm) -> Confirmation:
    register, use = caller.gallery.confirmations, caller.use(form.purpose, form.case)
    entry = register.propose(form.query, form.track, use)
    return register.confirm(entry.id, use) if form.decision == "confirm" else register.reject(entry.id, use)


@router.get("/sheet/{id}")
async def sheet(id: Name, caller: Operator, service: Shared) -> Response:
    """Return the contact sheet of a recent search."""
    return attachment(await contact_sheet_of(caller, service, id, "candidates.html"), "candidates.html")


def _common(caller: Caller, session: Session) -> dict[str, Any]:
    may_verify = caller.key.role.allows(Role.OPERATOR)
    return {"caller": caller, "gallery": caller.gallery.settings, "session": session, "may_verify": may_verify}
