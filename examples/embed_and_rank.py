"""Rank texts for each radiograph by the similarity of their embeddings.

python examples/embed_and_rank.py models/full a.jpg b.png --texts "No pneumothorax." "Large effusion."
"""

import argparse

import torch

from medunifier import MedUnifierModel, MedUnifierProcessor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder of a trained model, for example models/full")
    parser.add_argument("images", nargs="+", help="radiographs (JPEG, PNG or DICOM)")
    parser.add_argument("--texts", nargs="+", required=True, help="sentences or reports")
    arguments = parser.parse_args()

    model = MedUnifierModel.from_pretrained(arguments.model)
    processor = MedUnifierProcessor.from_pretrained(arguments.model)
    batch = processor(images=arguments.images, text=arguments.texts)
    with torch.inference_mode():
        features = model.extract_features(batch["pixel_values"])
        _, images = model.encode_image(features)  # (n, queries, projection), L2-normalised
        _, texts = model.encode_text(batch["input_ids"], batch["attention_mask"])  # (m, projection)
    similarity = (images @ texts.T).amax(1)  # (n, m): cosine of the best query (paper Eq. 10)
    for image, row in zip(arguments.images, similarity, strict=True):
        print(image)
        for number in row.argsort(descending=True).tolist():
            print(f"  {row[number]:.3f}  {arguments.texts[number]}")


if __name__ == "__main__":
    main()
