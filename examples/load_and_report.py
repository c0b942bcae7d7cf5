"""Generate a report for each radiograph: python examples/load_and_report.py models/full radiograph.jpg."""

from argparse import ArgumentParser

from medunifier import MedUnifierModel, MedUnifierProcessor

parser = ArgumentParser(description=__doc__)
parser.add_argument("folder", help="folder of a trained model")
parser.add_argument("images", nargs="+", help="radiographs: JPEG, PNG or DICOM files")
folder, images = vars(parser.parse_args()).values()
model, processor = MedUnifierModel.from_pretrained(folder), MedUnifierProcessor.from_pretrained(folder)
features = model.extract_features(processor(images=images)["pixel_values"])  # (n, tokens, width)
reports = processor.batch_decode(model.generate(features, num_beams=3))
for image, report in zip(images, reports, strict=True):
    print(f"{image}: {report}")
