"""Plain float networks to try the toolchain on. They never import qdq; qdq never imports them."""
