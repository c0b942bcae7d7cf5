"""Quality of generated images: realism, diversity, copies, and fidelity to prompts."""
