"""Kedro datasets of the project: tables, folders, embeddings, scores, JSON, credentials."""

from speaker_verification.datasets.arrays import ArraysDataset
from speaker_verification.datasets.credentials import CredentialsDataset
from speaker_verification.datasets.embedding_store import EmbeddingStoreDataset
from speaker_verification.datasets.folder import FolderDataset
from speaker_verification.datasets.html_page import HtmlPageDataset
from speaker_verification.datasets.json_file import JsonDataset
from speaker_verification.datasets.score_files import ScoreFilesDataset
from speaker_verification.datasets.table import TableDataset
from speaker_verification.datasets.texts import CsvTableDataset, TextTableDataset

__all__ = [
    "ArraysDataset",
    "CredentialsDataset",
    "CsvTableDataset",
    "EmbeddingStoreDataset",
    "FolderDataset",
    "HtmlPageDataset",
    "JsonDataset",
    "ScoreFilesDataset",
    "TableDataset",
    "TextTableDataset",
]
