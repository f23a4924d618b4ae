"""Runs on Kubernetes: manifests rendered by kustomize for a run's settings, sent and watched by the user's own kubectl."""
