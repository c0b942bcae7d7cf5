"""Generate a report for each radiograph: python examples/load_and_report.py models/full radiograph.jpg."""

import sys

from medunifier import MedUnifierModel, MedUnifierProcessor

folder, *images = sys.argv[1:]  # of a trained model; JPEG, PNG or DICOM files
model, processor = MedUnifierModel.from_pretrained(folder), MedUnifierProcessor.from_pretrained(folder)
features = model.extract_features(processor(images=images)["pixel_values"])  # (n, tokens, width), frozen ViT
reports = processor.batch_decode(model.generate(features, num_beams=3))
for image, report in zip(images, reports, strict=True):
    print(f"{image}: {report}")
