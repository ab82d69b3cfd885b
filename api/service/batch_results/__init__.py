"""What the jobs of a batch made, as one thing: an archive, a table, a picture.

children      the jobs, page after page, while an answer is on its way (archive, table)
entry_names   names of files in an archive (archive)
archive       all outputs as one ZIP, made while it is sent (contracts)
table         parameters and outputs as CSV and JSON, made while they are sent (contracts)
axes          where each job stands in a sheet, by what was varied (sheets, sheet_pages)
sheet_pages   a page of a sheet as pixels (sheets)
texts         texts of a sheet: fonts, lines that fit (sheet_pages)
thumbnails    small pictures of outputs, kept by their hashes (sheets)
byte_cache    what was made last, up to so many bytes (thumbnails, sheets)
sheets        contact sheets: which page, whether it is known, who makes it (contracts)
"""
