"""Pages and figures in one visual language: one palette, one style sheet, one set of templates."""
