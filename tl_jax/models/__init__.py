"""Architecture families: one file each, holding its config reader, its stages and its name map."""
