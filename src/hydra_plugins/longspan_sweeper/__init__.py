"""Longspan's sweepers, where Hydra looks for plugins. Every start of Hydra imports what is here."""
