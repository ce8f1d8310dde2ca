"""The web page: by plain forms, and in headless Chromium through a real search on rendered people."""

import base64
import html
import io
import re
import shutil
from datetime import timedelta
from importlib.resources import files

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from PIL import Image
from starlette.testclient import TestClient

from serve_site import DAY, WHY, Site, encoded, serving
from vireid.gallery import Camera, Gallery, NewItem, Use
from vireid.gallery.confirmations import Confirmations
from vireid.serve import Limits, create_app
from vireid.serve.page.forms import FilterForm
from vireid.synth.difficulty import PRESETS
from vireid.synth.shot import Shot, take


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "gallery")
    site.gallery.cameras.put(Camera(id="c0", place="<script>alert(1)</script>"))
    yield site
    site.app.state.service.close()


class Visitor:
    """A browser without script: cookies and forms."""

    def __init__(self, site, user=None):
        self.http = TestClient(site.app, follow_redirects=False)
        self.csrf = ""
        if user:
            assert self.http.post("/login", data={"key": site.keys[user]}).status_code == 303
            self.csrf = re.search(r'name="csrf" value="([^"]+)"', self.http.get("/").text)[1]

    def send(self, path, **form):
        return self.http.post(path, data={"csrf": self.csrf, **form})

    def search(self, **form):
        return self.send("/search", **{"item": "c1/1-0", **WHY, **form})


def wait_until(page, condition):
    """Wait for a condition from outside; the page's policy forbids what `wait_for_function` does inside."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never true: {condition}")


def test_strangers_are_sent_to_the_sign_in_and_wrong_keys_refused(site):
    visitor = Visitor(site)
    for path in ("/", "/pictures", "/verification", "/crop?id=c0/0-0", "/sheet/x"):
        answer = visitor.http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    ended = visitor.send("/search")
    assert (ended.status_code, "Your session has ended: sign in again" in ended.text) == (401, True)
    assert "<html" in ended.text
    for key in ("", "vireid_x_y", site.keys["vera"][:-1]):
        answer = visitor.http.post("/login", data={"key": key})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


def test_a_session_is_a_strict_cookie_that_ends_with_sign_out_or_its_key(site):
    visitor = Visitor(site)
    cookie = visitor.http.post("/login", data={"key": site.keys["vera"]}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert site.keys["vera"] not in cookie
    vera, olga = Visitor(site, "vera"), Visitor(site, "olga")
    token = vera.http.cookies["vireid_session"]
    assert vera.send("/logout").headers["location"] == "/login"
    vera.http.cookies["vireid_session"] = token
    assert vera.http.get("/").status_code == 303
    site.gallery.keys.revoke(site.key_ids["olga"])
    assert olga.http.get("/").status_code == 303
    actions = [entry.entry["action"] for entry in site.gallery.audit.entries()]
    assert actions.count("sign in") == 3
    assert actions.count("sign out") == 1


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/search", {**WHY, "item": "c0/0-0"}),
        ("/verification", {**WHY, "query": "item:c0/0-0", "track": "t1", "decision": "confirm"}),
        ("/pick", WHY),
        ("/logout", {}),
    ],
)
def test_forms_of_other_pages_are_refused(site, path, form):
    olga = Visitor(site, "olga")
    entries = len(site.gallery.audit.entries())
    for csrf in ("", "x", "é"):
        assert olga.http.post(path, data={**form, "csrf": csrf}).status_code == 403
    assert len(site.gallery.audit.entries()) == entries
    assert olga.send(path, **form).status_code in (200, 303)
    foreign = olga.http.post("/login", data={"key": site.keys["olga"]}, headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403


def test_a_search_works_without_script_and_escapes_what_it_shows(site):
    page = Visitor(site, "vera").search(kind="visible", cameras=["c0"], start="2026-05-03T09:01").text
    assert re.findall(r'name="pick" value="([^"]+)-."', page) == ["c0/2", "c0/4"]
    assert "not calibrated: rank only" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "03 May 2026, 09:02:00 – 09:02:02 UTC" in page
    assert 'value="lost child"' in page
    assert re.search(r'name="cameras" value="c0" checked', page)
    picked = Visitor(site, "vera").search(pick="c0/4-0").text
    assert 'alt="The stored picture c0/4-0"' in picked


@pytest.mark.parametrize("start", ["2026-05-03T09:01", "2026-05-03T11:01+02:00"])
def test_times_are_utc_unless_they_name_a_zone(start):
    assert FilterForm(start=start).where().start == DAY + timedelta(minutes=1)


@pytest.mark.parametrize(
    ("form", "status", "sentence"),
    [
        ({"purpose": " "}, 422, "Purpose: is blank"),
        ({"item": ""}, 409, "Drop a picture"),
        ({"item": "none"}, 404, "none"),
        ({"start": "yesterday"}, 422, "Start: write a time such as 2026-05-03T21:00."),
        ({"kind": "yesterday"}, 422, "Kind: is no modality: use visible or infrared."),
        ({"start": "0001-01-01T00:00+14:00"}, 422, "Start: lies outside the years 1 to 9999"),
        ({"k": "1000"}, 422, "K:"),
    ],
)
def test_mistakes_are_one_sentence_on_the_page(site, form, status, sentence):
    answer = Visitor(site, "vera").search(**form)
    assert answer.status_code == status
    assert re.search(r'role="alert">([^<]+)<', answer.text)[1].startswith(sentence) or sentence in answer.text
    assert "yesterday" not in answer.text


@pytest.mark.parametrize("script", [False, True])
def test_a_page_that_is_refused_for_load_says_so_in_html(site, script):
    vera = Visitor(site, "vera")
    headers = {"x-fragment": "1"} if script else {}
    with site.app.state.service.load.admit(site.key_ids["vera"]):
        site.app.state.service.load._limits = Limits(requests_per_key=1)
        answer = vera.http.post("/search", headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert 'role="alert">This key has 1 requests running: wait' in answer.text
    assert ("<html" in answer.text) is not script


def test_pages_load_nothing_from_elsewhere_and_no_inline_code(site):
    olga = Visitor(site, "olga")
    pages = [olga.http.get(path) for path in ("/login", "/", "/?item=c0/0-0", "/pictures", "/verification")]
    for answer in [*pages, olga.search()]:
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        links = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
        assert links
        assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in links)
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", answer.text)


def test_two_people_confirm_on_the_page(site):
    decision = {"query": "item:c1/1-0", "track": "t2", "decision": "confirm", **WHY}
    vera, olga, otto = (Visitor(site, user) for user in ("vera", "olga", "otto"))
    assert "Confirm" not in vera.search().text
    assert vera.send("/verification", **decision).status_code == 403
    assert olga.search().text.count('value="confirm"') == 5
    for query in ("item:", "sha256:0", f"SHA256:{64 * '0'}", "item:a\n"):
        refused = olga.send("/verification", **{**decision, "query": query})
        assert (refused.status_code, "Query: is no" in refused.text) == (422, True), query
    assert olga.send("/verification", **decision).status_code == 303
    assert "A second person must confirm" in olga.search().text
    assert olga.send("/verification", **decision).status_code == 409
    waiting = otto.http.get("/verification").text
    assert re.findall(r'aria-label="([^"]+: track t2)">([^<]+)<', waiting) == [
        ("Confirm too: track t2", "Confirm too"),
        ("Reject: track t2", "Reject"),
    ]
    assert '<input name="purpose" required' in waiting
    assert otto.send("/verification", **decision).status_code == 303
    assert "by olga and otto" in vera.http.get("/verification?case=2026-117").text
    assert "Nothing was put forward" in vera.http.get("/verification?case=other").text
    assert "Nothing is waiting" in vera.http.get("/verification").text


@pytest.mark.parametrize("searches", [False, True])
def test_a_candidate_that_is_erased_meanwhile_is_left_out(site, monkeypatch, searches):
    use, listed = Use(**WHY), Confirmations.list
    for track in ("t2", "t4"):
        site.gallery.confirmations.propose("item:c1/1-0", track, use)

    def erased_after(register, *conditions):
        entries = listed(register, *conditions)
        site.gallery.erase(use, track="t2")
        return entries

    monkeypatch.setattr(Confirmations, "list", erased_after)
    olga = Visitor(site, "olga")
    page = olga.search() if searches else olga.http.get("/verification")
    assert page.status_code == 200
    pictures = re.findall(r'"/crop\?id=c0/([^-]+)-', page.text)
    assert (pictures.count("2"), pictures.count("4")) == (int(searches), 3)


def test_candidates_under_verification_are_paged(site):
    olga, use = Visitor(site, "olga"), Use(purpose="why", case="a & b")
    for number in range(61):
        site.gallery.confirmations.propose(f"sha256:{number}", "t4", use)
    seen, path = [], "/verification?case=a+%26+b"
    while path:
        page = olga.http.get(path).text
        seen.append(re.findall(r"sha256:\d+", page))
        link = re.search(r'href="(/verification\?[^"]+)">More', page)
        path = html.unescape(link[1]) if link else None
    assert [len(queries) for queries in seen] == [60, 1]
    assert len({query for queries in seen for query in queries}) == 61


def test_stored_pictures_are_paged_and_lead_to_a_search(site):
    vera = Visitor(site, "vera")
    assert vera.send("/pick", purpose="why", case="c").headers["location"] == "/pictures"
    site.gallery.add(
        [NewItem(id=f"more/{i}", camera="c2", modality="visible") for i in range(70)],
        site.gallery.vectors(["c0/0-0"] * 70),
        [encoded()] * 70,
    )
    first = vera.http.get("/pictures?cameras=c2").text
    more = re.search(r'href="(/pictures\?[^"]+)"', first)[1].replace("&amp;", "&")
    ids = re.findall(r'href="/\?item=([^"]+)"', first + vera.http.get(more).text)
    assert ids == [f"more/{i}" for i in range(70)]
    assert 'value="why"' in vera.http.get(f"/?item={ids[0]}").text


def test_a_contact_sheet_is_exported_and_logged(site):
    olga = Visitor(site, "olga")
    link = re.search(r'href="(/sheet/\w+)"', olga.search().text)[1]
    sheet = olga.http.get(link)
    assert sheet.headers["content-disposition"] == 'attachment; filename="candidates.html"'
    assert sheet.text.count("data:image/jpeg") == 5
    entry = site.gallery.audit.entries()[-1].entry
    assert [entry[name] for name in ("action", "purpose", "case")] == ["export", WHY["purpose"], WHY["case"]]
    assert Visitor(site, "vera").http.get(link).status_code == 403
    assert olga.http.get("/sheet/none").status_code == 404


def luminance(colour):
    """WCAG's relative luminance of #rgb or #rrggbb."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("colour", "least"), [("edge", 3), ("soft", 4.5), ("ink", 4.5), ("accent", 4.5)])
def test_colours_are_told_apart(scheme, colour, least):
    style = files("vireid.serve.page").joinpath("static/page.css").read_text()
    for ground in ("page", "raised"):
        values = [re.findall(rf"--{name}: #(\w+)", style)[scheme] for name in (colour, ground)]
        dark, light = sorted(map(luminance, values))
        assert (light + 0.05) / (dark + 0.05) >= least, values


def rendered(pid, spectrum, index, camid):
    photo = take(Shot(pid, spectrum, index, camid), 11, PRESETS["demo"].difficulty)
    stream = io.BytesIO()
    Image.fromarray(photo.pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


@pytest.fixture(scope="module")
def station(run, tmp_path_factory):
    """A served gallery of six rendered people before two cameras, with a real bundle; its address and two keys."""
    gallery = Gallery.create(tmp_path_factory.mktemp("page") / "station", bundle=run / "last.safetensors")
    shots = [(pid, camid, shot) for pid in range(6) for camid in (1, 2) for shot in range(3)]
    items = [
        NewItem(
            id=f"cam-{camid}/{pid}-{shot}",
            camera=f"cam-{camid}",
            modality="visible",
            track=f"{camid}-{pid}",
            time=DAY + timedelta(minutes=pid, seconds=shot),
        )
        for pid, camid, shot in shots
    ]
    crops = [rendered(pid, "visible", 10 * camid + shot, camid) for pid, camid, shot in shots]
    pictures = [Image.open(io.BytesIO(crop)) for crop in crops]
    gallery.add(items, gallery.embedder().embed(pictures, "visible"), crops)
    keys = [gallery.keys.create(user, "operator")[1] for user in ("olga", "otto")]
    with serving(create_app([gallery])) as (_, url):
        yield url, keys


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, station):
    """Open the page signed in; every request and complaint of the browser is noted."""
    opened = []

    def visit(user=0, **options):
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.requested, page.complaints = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(station[0])
        page.fill("#key", station[1][user])
        page.click("form button")
        page.wait_for_selector("#search")
        opened.append((context, page))
        return page

    yield visit
    for context, page in opened:
        outside = [url for url in page.requested if not url.startswith((station[0], "data:"))]
        assert outside == []
        assert page.complaints == []
        context.close()


def ask(page):
    page.fill("#purpose", WHY["purpose"])
    page.fill("#case", WHY["case"])


def answered(page, act):
    """Act, and wait for the results that follow."""
    with page.expect_response(lambda response: response.url.endswith("/search")) as response:
        act()
    assert response.value.status == 200
    page.wait_for_selector("#results:not([aria-busy]) .verdict")
    return page.locator("[data-walk]").evaluate_all("stops => stops.map(stop => stop.value)")


DROP = """async (data) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "night.jpg", { type: "image/jpeg" }));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
}"""


def test_drop_search_pick_rerank_confirm_and_export(visit):
    page = visit()
    ask(page)
    page.evaluate(DROP, base64.b64encode(rendered(3, "nir", 90, 3)).decode())
    page.wait_for_selector("#preview canvas")
    page.check("[name=cameras][value='cam-1']")
    found = answered(page, lambda: page.click(".go button"))
    assert len(found) == 6
    assert all(item.startswith("cam-1/") for item in found)
    assert page.locator(".card").first.locator(".strip img").count() == 2
    page.locator(".card img").last.scroll_into_view_if_needed()
    wait_until(page, "[...document.images].every(image => image.naturalWidth > 0)")

    page.uncheck("[name=cameras][value='cam-1']")
    page.click("text=Ranking")
    page.select_option("#rerank", "k-reciprocal")
    assert len(answered(page, lambda: page.click(".go button"))) == 12
    assert "re-ranked by k-reciprocal" in page.inner_text(".verdict")

    picked = page.locator(".card .picture").nth(2)
    name = picked.get_attribute("value")
    assert name not in answered(page, picked.click)
    assert page.input_value("[name=item]") == name
    assert page.locator("#preview img").get_attribute("src").startswith("/crop?id=cam-")

    page.click("#state-1 [value=confirm]")
    page.wait_for_selector("#state-1 .confirmed-once")
    assert "A second person must confirm" in page.inner_text("#state-1")
    assert page.evaluate("document.activeElement.id") == "state-1"
    with page.expect_download() as download:
        page.click("text=Contact sheet")
    assert "data:image/jpeg" in download.value.path().read_text()

    other = visit(user=1)
    other.click("text=Verification")
    other.fill("#state-1 [name=purpose]", "second look")
    other.click("#state-1 [value=confirm]")
    other.wait_for_selector("#state-1 .badge.confirmed")
    assert "by olga and otto" in other.inner_text("#state-1")


def test_the_newest_search_is_shown_and_a_failed_decision_can_be_made_again(visit):
    page = visit()
    ask(page)
    held = []
    page.route("**/search", lambda route: route.continue_() if held else held.append(route))
    page.evaluate("document.getElementById('item').value = 'cam-1/0-0'")
    page.click(".go button")
    wait_until(page, "document.getElementById('results').hasAttribute('aria-busy')")
    page.evaluate("document.getElementById('item').value = 'cam-2/4-0'")
    assert "cam-2/4-0" not in answered(page, lambda: page.click(".go button"))
    assert held[0].request.failure == "net::ERR_ABORTED"
    page.route("**/verification", lambda route: route.fulfill(status=503, body='<p class="notice">at its bound</p>'))
    page.click("#state-1 [value=confirm]")
    page.wait_for_selector("#state-1 .notice")
    page.complaints.clear()
    page.unroute("**/verification")
    page.click("#state-1 [value=confirm]")
    page.wait_for_selector("#state-1 .confirmed-once")
    assert page.locator("#state-1 .notice").count() == 0


def test_the_keyboard_is_enough(visit):
    page = visit()
    page.keyboard.type(WHY["purpose"])
    page.keyboard.press("Tab")
    page.keyboard.type(WHY["case"])
    page.evaluate("document.getElementById('item').value = 'cam-1/0-0'")
    found = answered(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate("document.activeElement.id") == "results"
    for key, rank in (("ArrowDown", 0), ("ArrowDown", 1), ("ArrowRight", 2), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.value") == found[rank]
    page.keyboard.press("Shift+ArrowDown")
    assert page.evaluate("document.activeElement.value") == found[1]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    again = answered(page, lambda: page.keyboard.press("Enter"))
    assert again != found
    assert page.input_value("[name=item]") == found[1]


def test_phone_and_dark(visit):
    grounds = {}
    for scheme in ("light", "dark"):
        page = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
        ask(page)
        page.set_input_files("#image", {"name": "n.jpg", "mimeType": "image/jpeg", "buffer": rendered(1, "nir", 90, 3)})
        answered(page, lambda page=page: page.click(".go button"))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        heights = page.locator("button:visible:not(.link, .away)").evaluate_all("all => all.map(b => b.clientHeight)")
        assert min(heights) > 25
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert grounds["light"] != grounds["dark"]
