"""Wire forms (v1beta1, v1, discovery.k8s.io/v1; JSON and YAML) to model and back."""
