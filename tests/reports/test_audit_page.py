"""Laws of the audit page: it stands alone, names are text and no markup, and of a photograph only pixels leave."""

import base64
import re

import cv2
import numpy as np
from PIL import Image

from rightfit.data.audit.findings import Audit, Finding
from rightfit.reports.audit_page import SETS, TOGETHER, page

HOSTILE = "a/<img src=x onerror=alert(1)>&\"'.jpg"


def audit(root, *sets, reasons=()):
    classes = {"a": {"train": 3, "val": 1, "test": 0}, "<b>": {"train": 2, "val": 0, "test": 0}}
    finding = Finding("warning", "exact-duplicates", "2 images are copies.", "advice", tuple(sets), reasons)
    return Audit(6, classes, (finding,), str(root))


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x010F] = "SECRET-CAMERA"
    pixels = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def test_names_are_text_and_never_markup(read, tmp_path):
    photograph(tmp_path / HOSTILE)
    seen = read(page(audit(tmp_path, (HOSTILE,), reasons=("<script>",))))
    images = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert [image["alt"] for image in images] == [HOSTILE]
    assert "script" not in {tag for tag, _ in seen.tags} and not any("onerror" in image for image in images)
    assert HOSTILE in seen.text and "<b>" in seen.text and "<script>" in seen.text


def test_thumbnails_are_small_jpegs_inside_the_page_and_without_exif(tmp_path):
    photograph(tmp_path / "a" / "photo.jpg")
    text = page(audit(tmp_path, ("a/photo.jpg",)))
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    data = base64.b64decode(re.search(r'src="data:image/jpeg;base64,([^"]+)"', text)[1])
    assert b"SECRET-CAMERA" in (tmp_path / "a" / "photo.jpg").read_bytes()
    assert b"SECRET-CAMERA" not in data and b"Exif" not in data
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (112, 112, 3)


def test_what_cannot_be_decoded_is_said_and_what_is_many_is_cut(read, tmp_path):
    many = [tuple(f"a/{i}-{j}.png" for j in range(TOGETHER + 2)) for i in range(SETS + 3)]
    seen = read(page(audit(tmp_path, *many)))
    assert not [tag for tag, _ in seen.tags if tag == "img"]
    assert seen.text.count("cannot be shown") == SETS * TOGETHER
    assert "and 2 more" in seen.text and "and 3 more" in seen.text


def test_a_page_without_findings_says_so():
    assert "Nothing was found" in page(Audit(0, {}, (), ""))
