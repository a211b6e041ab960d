"""Reports: runs (those of an archive), scenes (what a run did to each), spectra, chart, page (one HTML file)."""
