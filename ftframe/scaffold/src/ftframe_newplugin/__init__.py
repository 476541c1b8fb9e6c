"""newplugin for ftframe."""
