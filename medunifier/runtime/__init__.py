"""What every part stands on: parameters, errors, files, YAML, dvc.yaml as data, processes."""
