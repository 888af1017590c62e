@echo off
rem The Makefile's targets and variables on Windows: make.bat reproduce PROFILE=cpu MODEL=tiny
rem In cmd, `make reproduce` finds this file; in PowerShell: .\make reproduce
setlocal
if defined PYTHON goto run
set PYTHON=python
where py >nul 2>nul && set PYTHON=py -3
:run
%PYTHON% "%~dp0make.py" %*
exit /b %errorlevel%
