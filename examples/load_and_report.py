"""Write a report for each radiograph.

python examples/load_and_report.py models/full radiograph.jpg
"""

import argparse

import torch

from medunifier import MedUnifierModel, MedUnifierProcessor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a trained model, for example models/full")
    parser.add_argument("images", nargs="+", help="radiographs (JPEG, PNG or DICOM)")
    parser.add_argument("--beams", type=int, default=3, help="running texts of the beam search")
    arguments = parser.parse_args()

    model = MedUnifierModel.from_pretrained(arguments.model)
    processor = MedUnifierProcessor.from_pretrained(arguments.model)
    with torch.inference_mode():
        pixels = processor(images=arguments.images)["pixel_values"]  # (n, 3, 224, 224)
        features = model.extract_features(pixels)  # (n, 1 + patches, vision width), of the frozen encoder
        tokens = model.generate(features, num_beams=arguments.beams)
    for image, report in zip(arguments.images, processor.batch_decode(tokens), strict=True):
        print(f"{image}: {report}")


if __name__ == "__main__":
    main()
