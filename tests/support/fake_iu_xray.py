"""A tiny copy of IU X-ray, in XML as Open-i distributes it and as the tabular copy."""

import csv
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_files import image_file, pixels, put, settings

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="INDICATION"/>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{mesh}</MeSH>
{images}</eCitation>"""


@dataclass
class FakeIuXray:
    """Reports with their images; `write_xml` and `write_tables` put the index on disk in either form."""

    root: Path
    reports: list[dict] = field(default_factory=list)

    def add(
        self, uid, images=("IM-0001-1001",), *, findings="Clear.", impression="Normal.", mesh=("normal",)
    ):
        self.reports.append(
            {"uid": uid, "findings": findings, "impression": impression, "mesh": mesh, "images": images}
        )

    def write_xml(self, packed: bool = False) -> None:
        folder = self.root / "ecgen-radiology"
        for report in self.reports:
            uid = report["uid"]
            names = [f"CXR{uid}_{image}" for image in report["images"]]
            for name in names:
                put(self.root / f"NLMCXR_png/{name}.png", image_file(pixels(name), "PNG"))
            images = "".join(f'<parentImage id="{name}"/>' for name in names)
            mesh = "".join(f"<major>{heading}</major>" for heading in report["mesh"])
            put(folder / f"{uid}.xml", XML.format(**{**report, "images": images, "mesh": mesh}))
        if packed:
            with tarfile.open(self.root / "NLMCXR_reports.tgz", "w:gz") as archive:
                archive.add(folder, "ecgen-radiology")

    def write_tables(self) -> None:
        reports, projections = [], []
        for report in self.reports:
            row = {name: report[name] for name in ("uid", "findings", "impression")}
            reports.append(row | {"MeSH": ";".join(report["mesh"]), "Problems": "", "image": ""})
            for image in report["images"]:
                # The XML of study 1 says CXR1_1_IM..., of others CXR2_IM...; the tables 1_IM... and 2_IM...
                name = f"{report['uid']}_{image.removeprefix(str(report['uid']) + '_')}.dcm.png"
                view = "Frontal" if image.endswith("1001") else "Lateral"
                projections.append({"uid": report["uid"], "filename": name, "projection": view})
                put(self.root / f"images/images_normalized/{name}", image_file(pixels(name), "PNG"))
        for name, rows in (("indiana_reports", reports), ("indiana_projections", projections)):
            with (self.root / f"{name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)

    def settings(self, images="ecgen-radiology", labels=None, **changes):
        values = {"sections": "either", "split": "patient"}
        return settings("iu_xray", self.root, images, labels_file=labels, **{**values, **changes})

    def table_settings(self, **changes):
        return self.settings("indiana_projections.csv", "indiana_reports.csv", **changes)
