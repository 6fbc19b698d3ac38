"""Teachers: frozen upstreams that give one or more embedding sequences each."""
