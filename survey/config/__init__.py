"""The YAML file of a survey: its keys and limits, and the parameters that the installed pipeline accepts."""

# Modules that other packages may import.
__all__ = ["commented", "limits", "model", "pipeline_spec", "sections", "values", "yaml_file"]
