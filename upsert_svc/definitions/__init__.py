"""What records must look like: custom objects, their fields and field types, compiled for use."""
