"""Operations: a goal and files, done by a headless command-line agent in a sandbox."""
