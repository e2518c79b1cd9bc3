"""The YAML file of a survey: its keys and limits, and the parameters that the installed pipeline accepts."""

# Modules that other packages may import.
__all__ = [
    "code_versions",
    "commented",
    "hooks",
    "limits",
    "model",
    "pipeline_spec",
    "probes",
    "sections",
    "step_names",
    "values",
    "yaml_file",
]
